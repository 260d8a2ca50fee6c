/*
 * The egress guard (rule L5): the last check of every frame that leaves a data interface, first at its egress, so that frames
 * queued by a stopped or dead process still die in time. Pure filter: it never changes a frame.
 *
 *   source is a shard's virtual MAC   -> passes only within that shard's lease (M1)
 *   source is the device's own MAC    -> IPv4 to a peer's data MAC: a Forward, passes (M1)
 *                                        IPv4 else: a repetition in grace (L4); its shard is found by the address that it
 *                                        was translated by, and it passes only within that shard's grace;
 *                                        between two hosts of one network it is that of the lower address (M3)
 *                                        a sounding to a peer's data MAC: passes, so that members know whether the network does
 *   anything else                     -> dropped: nothing leaves untranslated (R28)
 *
 * And the first check of what comes in: a frame of a VLAN to a shard's virtual MAC is dropped, since the packet sockets no
 * longer see its tag. Those to other addresses may be a VLAN device's on the same interface; what none takes the sockets
 * refuse.
 *
 * The map layouts are asserted against Rust's in src/guard.rs and src/sync/word.rs.
 */
#define SHARDS 1024
#define DEVICES 16
#define PEERS 1024
#define ADDRESSES 262144

/* One lease word; src/sync/word.rs. Aligned 64-bit loads are single on every 64-bit machine. */
struct word {
	u64 incarnation;
	u64 term;
	u64 lease_until_ns;
	u64 grace_until_ns;
};

/* What the guard knows about an interface that it is attached to. */
struct device {
	u32 network; /* 0 outside, n the n-th inside interface */
	u8 mac[6];
	u8 pad[2];
};

struct address {
	u32 network;
	u32 ip; /* network order */
};

struct mac {
	u8 mac[6];
	u8 pad[2];
};

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, SHARDS);
	UINT(map_flags, F_MMAPABLE);
	TYPE(key, u32);
	TYPE(value, struct word);
} words SEC(".maps");

struct {
	UINT(type, MAP_HASH);
	UINT(max_entries, DEVICES);
	TYPE(key, u32); /* ifindex */
	TYPE(value, struct device);
} devices SEC(".maps");

struct {
	UINT(type, MAP_HASH);
	UINT(max_entries, PEERS);
	TYPE(key, struct mac);
	TYPE(value, u32);
} peer_macs SEC(".maps");

struct {
	UINT(type, MAP_HASH);
	UINT(max_entries, ADDRESSES);
	UINT(map_flags, F_NO_PREALLOC);
	TYPE(key, struct address);
	TYPE(value, u32); /* shard */
} addr_shard SEC(".maps");

enum reason {
	PASS_LEASE,
	PASS_FORWARD,
	PASS_SOUNDING,
	PASS_GRACE,
	DROP_LEASE,
	DROP_GRACE,
	DROP_ADDRESS,
	DROP_ARP,
	DROP_PROTOCOL,
	DROP_SOURCE,
	DROP_SHORT,
	DROP_DEVICE,
	DROP_TAGGED,
	REASONS
};

struct {
	UINT(type, MAP_PERCPU_ARRAY);
	UINT(max_entries, REASONS);
	TYPE(key, u32);
	TYPE(value, u64);
} counters SEC(".maps");

static __attribute__((always_inline)) int done(enum reason reason)
{
	u32 key = reason;
	u64 *count = map_lookup(&counters, &key);

	if (count)
		*count += 1;
	return reason <= PASS_GRACE ? TC_NEXT : TC_SHOT;
}

static __attribute__((always_inline)) int within(const volatile u64 *until)
{
	return ktime_get_boot_ns() < *until;
}

/* VLAN 0 is a priority and no VLAN (IEEE 802.1Q). */
static __attribute__((always_inline)) int is_tagged(struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_tci & 0xfff;
}

/* Where there is no fast path, which does the same first. */
SEC("classifier") int qnat_tagged(struct __sk_buff *skb)
{
	u8 *data = (u8 *)(long)skb->data, *end = (u8 *)(long)skb->data_end;

	return is_tagged(skb) && data + 14 <= end && is_virtual(data) ? done(DROP_TAGGED) : TC_NEXT;
}

SEC("classifier") int qnat_guard(struct __sk_buff *skb)
{
	u8 *data, *end;
	u32 key, *shard, *sender, wanted;
	u16 ethertype;
	struct word *word;
	struct device *device;
	struct mac peer = {};
	struct address address = {};

	/* Ethernet, and the IPv4 header up to the destination. GSO packets and packet sockets may have less of it linear. */
	wanted = skb->len < 34 ? skb->len : 34;
	skb_pull_data(skb, wanted);
	data = (u8 *)(long)skb->data;
	end = (u8 *)(long)skb->data_end;
	if (data + 14 > end)
		return done(DROP_SHORT);

	if (is_virtual(data + 6)) {
		key = (u32)data[10] << 8 | data[11];
		word = map_lookup(&words, &key);
		return done(word && within(&word->lease_until_ns) ? PASS_LEASE : DROP_LEASE);
	}

	key = skb->ifindex;
	device = map_lookup(&devices, &key);
	if (!device)
		return done(DROP_DEVICE);
	for (int i = 0; i < 6; i++)
		if (data[6 + i] != device->mac[i])
			return done(DROP_SOURCE);

	ethertype = (u16)(data[12] << 8 | data[13]);
	if (ethertype == 0x0806)
		return done(DROP_ARP);
	for (int i = 0; i < 6; i++)
		peer.mac[i] = data[i];
	if (ethertype == 0x88b6 && !skb->vlan_present && map_lookup(&peer_macs, &peer))
		return done(PASS_SOUNDING);
	if (ethertype != 0x0800 || skb->vlan_present)
		return done(DROP_PROTOCOL);
	if (data + 34 > end)
		return done(DROP_SHORT);

	if (map_lookup(&peer_macs, &peer))
		return done(PASS_FORWARD);

	/* Outside, a translated packet comes from a frontend; inside, it goes to a backend. */
	address.network = device->network;
	__builtin_memcpy(&address.ip, device->network ? data + 30 : data + 26, 4);
	shard = map_lookup(&addr_shard, &address);
	if (!shard)
		return done(DROP_ADDRESS);
	if (device->network) {
		u32 receiver = address.ip;

		/* Between two of a network: the shard is that of the lower address (M3). */
		__builtin_memcpy(&address.ip, data + 26, 4);
		sender = map_lookup(&addr_shard, &address);
		if (sender && __builtin_bswap32(address.ip) < __builtin_bswap32(receiver))
			shard = sender;
		/* Between two networks nobody repeats anything: whose the pair is cannot be told here. */
		for (u32 network = 1; !sender && network < DEVICES; network++) {
			address.network = network;
			if (map_lookup(&addr_shard, &address))
				return done(DROP_ADDRESS);
		}
	}
	key = *shard;
	word = map_lookup(&words, &key);
	return done(word && within(&word->grace_until_ns) ? PASS_GRACE : DROP_GRACE);
}
