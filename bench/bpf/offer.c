/*
 * A generator and a sink of small datagrams, for measurements in which both ends cost next to nothing. The kernel calls the
 * generator once per frame (BPF_PROG_TEST_RUN with live frames) and sends what it writes by the interface that the frame is said
 * to come from. Self-contained on purpose: the few types below are stable ABI. The layouts are those of src/offer.rs.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

/* linux/bpf.h: the context of a classifier, as far as it is used here. */
struct __sk_buff {
	u32 before[19];
	u32 data;
	u32 data_end;
};

enum { MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6 };
enum { XDP_DROP = 1, XDP_PASS = 2, XDP_TX = 3 };
enum { TC_NEXT = -1, TC_SHOT = 2 };
/* Frames that are sent without a gap at most; a veth's queue has room for 256. */
enum { BURST = 32 };
/* At the clock until a frame is due: some hundred microseconds. */
enum { LOOKS = 4096 };
enum { HEAD = 42, FRAME = 60, PORTS_AT = 34, CHECKSUM_AT = 40 };

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*ktime_get_boot_ns)(void) = (void *)125;
static long (*skb_pull_data)(struct __sk_buff *skb, u32 len) = (void *)39;

#define SEC(name) __attribute__((section(name), used))
#define UINT(name, value) int(*name)[value]
#define TYPE(name, type) type *name

/* What is sent: datagrams of flows that differ in their ports. */
struct config {
	u64 gap_ns; /* between two frames; 0: none */
	u32 flows;
	u32 ports; /* flows to each port of the remote */
	u32 sum; /* of the checksum, without the ports; not folded */
	u16 first_port;
	u16 first_remote;
	u8 head[HEAD];
	u8 pad[6];
};

struct state {
	u64 sent;
	u64 due_ns;
	u64 first_ns; /* when the first and the latest left, if they have a rate */
	u64 last_ns;
	u32 flow;
	u32 pad;
};

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct config);
} configs SEC(".maps");

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct state);
} states SEC(".maps");

struct {
	UINT(type, MAP_PERCPU_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u64);
} arrived SEC(".maps");

static u16 big(u32 value)
{
	return __builtin_bswap16((u16)value);
}

/* A frame comes back with what others made of it, so all of it is written anew. */
SEC("xdp")
int offer(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(long)ctx->data;
	u8 *end = (u8 *)(long)ctx->data_end;
	u32 zero = 0, sum, port, remote;
	u64 now;
	int look;
	struct config *config = map_lookup(&configs, &zero);
	struct state *state = map_lookup(&states, &zero);

	if (!config || !state || data + FRAME > end || !config->ports)
		return XDP_DROP;
	if (config->gap_ns) {
		now = ktime_get_boot_ns();
#pragma clang loop unroll(disable)
		for (look = 0; look < LOOKS && now < state->due_ns; look++)
			now = ktime_get_boot_ns();
		/* Whoever was kept from sending does not make up for all of it at once. */
		if (now > state->due_ns && now - state->due_ns > BURST * config->gap_ns)
			state->due_ns = now - BURST * config->gap_ns;
		state->due_ns += config->gap_ns;
		if (!state->first_ns)
			state->first_ns = now;
		state->last_ns = now;
	}
	__builtin_memcpy(data, config->head, HEAD);
	port = config->first_port + state->flow % config->ports;
	remote = config->first_remote + state->flow / config->ports;
	sum = config->sum + port + remote;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~sum & 0xffff;
	*(u16 *)(data + PORTS_AT) = big(port);
	*(u16 *)(data + PORTS_AT + 2) = big(remote);
	*(u16 *)(data + CHECKSUM_AT) = big(sum ? sum : 0xffff);
	state->flow = state->flow + 1 < config->flows ? state->flow + 1 : 0;
	state->sent++;
	return XDP_TX;
}

/* A veth takes such frames only while its far end has a program of this kind. */
SEC("xdp")
int pass(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

/* Counts and drops what has the generator's length, and passes all else. */
SEC("classifier")
int sink(struct __sk_buff *skb)
{
	u32 zero = 0;
	u64 *count = map_lookup(&arrived, &zero);
	u8 *data, *end;

	if (!count || skb_pull_data(skb, HEAD))
		return TC_NEXT;
	data = (u8 *)(long)skb->data;
	end = (u8 *)(long)skb->data_end;
	if (data + HEAD > end || *(u16 *)(data + 12) != big(0x0800) || data[23] != 17 ||
	    *(u16 *)(data + 16) != big(FRAME - 14))
		return TC_NEXT;
	(*count)++;
	return TC_SHOT;
}

/* Stands somewhere, and lets everything pass. */
SEC("classifier")
int bystander(struct __sk_buff *skb)
{
	(void)skb;
	return TC_NEXT;
}

char license_text[] SEC("license") = "Dual MIT/GPL";
