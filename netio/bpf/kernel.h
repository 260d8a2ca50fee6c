/*
 * What the kernel programs know of the kernel. Self-contained on purpose: the few types below are stable ABI, so the build needs
 * clang and no headers.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

/* linux/bpf.h: the context of a classifier, as far as it is used here. */
struct __sk_buff {
	u32 len;
	u32 pkt_type;
	u32 mark;
	u32 queue_mapping;
	u32 protocol;
	u32 vlan_present;
	u32 vlan_tci;
	u32 vlan_proto;
	u32 priority;
	u32 ingress_ifindex;
	u32 ifindex;
	u32 tc_index;
	u32 cb[5];
	u32 hash;
	u32 tc_classid;
	u32 data;
	u32 data_end;
	u32 napi_id;
	u32 family;
	u32 remote_ip4;
	u32 local_ip4;
	u32 remote_ip6[4];
	u32 local_ip6[4];
	u32 remote_port;
	u32 local_port;
	u32 data_meta;
	u64 flow_keys;
	u64 tstamp;
	u32 wire_len;
	u32 gso_segs;
	u64 sk;
	u32 gso_size;
};

enum { MAP_HASH = 1, MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6 };
enum { F_NO_PREALLOC = 1, F_MMAPABLE = 1 << 10 };
enum { TC_NEXT = -1, TC_SHOT = 2 };
enum { PACKET_HOST = 0 };
/* linux/bpf.h: what follows in the flags of l4_csum_replace. */
enum { F_PSEUDO_HDR = 0x10, F_MARK_MANGLED_0 = 0x20 };

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*l4_csum_replace)(struct __sk_buff *skb, u32 offset, u64 from, u64 to, u64 flags) = (void *)11;
static long (*redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*skb_change_type)(struct __sk_buff *skb, u32 type) = (void *)32;
static long (*skb_pull_data)(struct __sk_buff *skb, u32 len) = (void *)39;
static u64 (*ktime_get_boot_ns)(void) = (void *)125;
static long (*redirect_peer)(u32 ifindex, u64 flags) = (void *)155;

#define SEC(name) __attribute__((section(name), used))
#define UINT(name, value) int(*name)[value]
#define TYPE(name, type) type *name

static __attribute__((always_inline)) int is_virtual(const u8 *mac)
{
	return mac[0] == 0x02 && mac[1] == 0x51 && mac[2] == 0x4e && mac[3] == 0x00;
}
