/*
 * The fast path: carries the packets of mappings that a worker has decided about, without waking it. An entry is what was
 * decided (a Translation of the engine) with what it stands by: incarnation, term, revisions. It never decides anything, and
 * what is odd, unknown or outdated goes on to the worker's socket as if it were not here. First at the ingress of the data
 * interfaces, where it looks at tags as well; what it sends passes the egress guard as the worker's frames do (L5), or, to the far end of
 * a pair, this program's own last look at lease and record alone.
 *
 * One record for both directions of a flow, found by a key of each: {ifindex, addresses, ports, protocol} -> {record and
 * direction, generation}. The worker installs a record dead, then its keys, then makes it live by one store of its first word,
 * and kills it by another. A record is not used again before a second has passed; a packet that was on its way when its record
 * died is dropped by the second look.
 *
 * The layouts are asserted against Rust's in src/fast.rs.
 */
#define FLOWS 1
#define WORKERS 16
#define PLACES 65536
/* No window of TCP is larger. */
#define WINDOW_MAX (1u << 30)

/* Of a data interface: where its frames come from in grace. By its number, 0 outside. */
struct fast_device {
	u32 ifindex;
	u8 mac[6];
	u8 peer; /* what leaves by it may be handed to the other end of its pair */
	u8 pad;
};

/* What passes between two instances that no group judges is found by their addresses alone: no ports, no protocol. */
struct fast_key {
	u32 ifindex;
	u32 src, dst;
	u16 sport, dport;
	u32 proto;
};

struct fast_at {
	u32 way; /* twice the record's number, plus 1 for what comes in from outside */
	u32 generation;
};

struct fast_end {
	u8 mac[6];
	u16 mtu; /* of the interface that leads there */
};

struct fast_seen {
	u64 packets;
	u64 octets;
	u64 last_ns;
	u32 next; /* TCP: behind the sender's last octet, the remote's as far as it came in order, and what it acknowledged */
	u32 acked;
	u64 pad[4];
};

struct fast_record {
	u32 generation; /* 0: dead */
	u16 shard;
	u8 outside, inside; /* numbers of devices; the first is 0 unless what passes is private, from instance to instance */
	u64 incarnation;
	u64 term;
	u64 made; /* the revision that it was decided at */
	u32 place; /* of the backend's revision, with the worker's number above */
	union {
		u32 public_ip;
		u32 far_place; /* private: of the other instance's revision */
	};
	u32 backend_ip;
	u16 public_port;
	u16 backend_port;
	struct fast_end hop; /* outside, or the other instance */
	struct fast_end backend;
	struct fast_seen out;
	struct fast_seen in;
};

_Static_assert(sizeof(struct fast_record) == 192, "a line to read and one to write for each direction");

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, 16);
	TYPE(key, u32);
	TYPE(value, struct fast_device);
} fast_devices SEC(".maps");

struct {
	UINT(type, MAP_HASH);
	UINT(max_entries, FLOWS); /* the loader sets it */
	TYPE(key, struct fast_key);
	TYPE(value, struct fast_at);
} fast_keys SEC(".maps");

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, FLOWS); /* the loader sets it */
	UINT(map_flags, F_MMAPABLE);
	TYPE(key, u32);
	TYPE(value, struct fast_record);
} fast_records SEC(".maps");

/* What an entry must not be older than: a word for each backend's place, and one for all, of each worker. */
struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, FLOWS); /* the loader sets it */
	UINT(map_flags, F_MMAPABLE);
	TYPE(key, u32);
	TYPE(value, u64);
} fast_revisions SEC(".maps");

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, WORKERS);
	UINT(map_flags, F_MMAPABLE);
	TYPE(key, u32);
	TYPE(value, u64);
} fast_all SEC(".maps");

enum fast_fate {
	FAST_OUT, /* sent, by direction */
	FAST_IN,
	FAST_GRACE_OUT, /* sent from the own MAC */
	FAST_GRACE_IN,
	FAST_UNKNOWN, /* no entry */
	FAST_ODD, /* a fragment, options, a SYN, FIN or RST, a last hop, ... */
	FAST_DEAD, /* the entry is no longer, or not yet, what its key says */
	FAST_REVISED,
	FAST_STRANGER, /* another MAC than the instance's, or another shard's vMAC */
	FAST_LONG,
	FAST_LEASE, /* neither lease nor grace, or another term's */
	FAST_DROPPED, /* one of these while it was being rewritten */
	FAST_FATES
};

struct fast_count {
	u64 packets;
	u64 octets; /* of IP; of what was sent alone */
};

struct {
	UINT(type, MAP_PERCPU_ARRAY);
	UINT(max_entries, FAST_FATES);
	TYPE(key, u32);
	TYPE(value, struct fast_count);
} fast_fates SEC(".maps");

static __attribute__((always_inline)) void fast_tally(u32 fate, u32 octets)
{
	struct fast_count *count = map_lookup(&fast_fates, &fate);

	if (!count)
		return;
	count->packets += 1;
	count->octets += octets;
}

static __attribute__((always_inline)) int fast_done(enum fast_fate fate)
{
	fast_tally(fate, 0);
	return fate == FAST_DROPPED ? TC_SHOT : TC_NEXT;
}

/* RFC 1624: the checksum after one 16-bit word of what it covers has changed. */
static __attribute__((always_inline)) u16 fast_sum(u16 sum, u32 from, u32 to)
{
	u32 next = (u16)~sum;

	next += ~from & 0xffff;
	next += to & 0xffff;
	next = (next & 0xffff) + (next >> 16);
	next = (next & 0xffff) + (next >> 16);
	return (u16)~next;
}

static __attribute__((always_inline)) int same_mac(const u8 *a, const u8 *b)
{
	return *(u16 *)a == *(u16 *)b && *(u16 *)(a + 2) == *(u16 *)(b + 2) && *(u16 *)(a + 4) == *(u16 *)(b + 4);
}

static __attribute__((always_inline)) void put_mac(u8 *to, const u8 *from)
{
	*(u16 *)to = *(u16 *)from;
	*(u16 *)(to + 2) = *(u16 *)(from + 2);
	*(u16 *)(to + 4) = *(u16 *)(from + 4);
}

/* Whether what was decided at `made` is older than what a place stands for. */
static __attribute__((always_inline)) int revised(u32 place, u64 made)
{
	u64 *revision = map_lookup(&fast_revisions, &place);

	return !revision || made < *(volatile u64 *)revision;
}

/* Until when it may be sent by a word: 0 if the word is another life's or term's. */
static __attribute__((always_inline)) u64 until(struct word *word, struct fast_record *record, int grace)
{
	u64 time = *(volatile u64 *)(grace ? &word->grace_until_ns : &word->lease_until_ns);

	if (*(volatile u64 *)&word->incarnation != record->incarnation)
		return 0;
	return *(volatile u64 *)&word->term == record->term ? time : 0;
}

SEC("classifier") int qnat_fast(struct __sk_buff *skb)
{
	u8 *data = (u8 *)(long)skb->data, *end = (u8 *)(long)skb->data_end;
	struct fast_key key = {};
	struct fast_at *at;
	struct fast_record *record;
	struct fast_device *from, *to;
	struct fast_end *hop;
	struct fast_seen *seen;
	struct word *word;
	u32 index, total, header, wire, generation, old_ip, new_ip, sequence = 0, acked = 0;
	u32 in, grace, tcp, private, wanted, peer, begin = 0;
	u64 *revision, now;
	u16 old_port, new_port, ttl, sum;

	if (data + 14 > end || !is_virtual(data))
		return TC_NEXT;
	if (is_tagged(skb))
		return done(DROP_TAGGED);
	if (*(u16 *)(data + 12) != __builtin_bswap16(0x0800))
		return TC_NEXT;
	if (data + 54 > end) {
		wanted = skb->len < 54 ? skb->len : 54;
		skb_pull_data(skb, wanted);
		data = (u8 *)(long)skb->data;
		end = (u8 *)(long)skb->data_end;
		if (data + 42 > end)
			return TC_NEXT;
	}
	/* No priority, no options, no fragment, hops left. */
	if (skb->vlan_present || data[14] != 0x45 || (*(u16 *)(data + 20) & __builtin_bswap16(0x3fff)) || data[22] <= 1)
		return fast_done(FAST_ODD);
	total = (u32)data[16] << 8 | data[17];
	if (total + 14 > skb->len)
		return fast_done(FAST_ODD);
	key.proto = data[23];
	tcp = key.proto == 6;
	if (tcp) {
		if (data + 54 > end)
			return fast_done(FAST_ODD);
		header = 20 + ((u32)data[46] >> 4) * 4;
		/* ACK, and neither FIN nor SYN nor RST. */
		if ((data[47] & 0x17) != 0x10 || header < 40 || total < header)
			return fast_done(FAST_ODD);
		begin = __builtin_bswap32(*(u32 *)(data + 38));
		sequence = begin + total - header;
		acked = __builtin_bswap32(*(u32 *)(data + 42));
	} else if (key.proto == 17) {
		header = 28;
		wanted = (u32)data[38] << 8 | data[39];
		if (wanted < 8 || wanted + 20 > total)
			return fast_done(FAST_ODD);
	} else {
		/* Of ICMP echoes alone, and those where nothing but addresses counts. */
		header = 28;
		if (key.proto != 1 || (data[34] & 0xf7) || data[35] || total < header)
			return fast_done(FAST_ODD);
	}

	key.ifindex = skb->ifindex;
	key.src = *(u32 *)(data + 26);
	key.dst = *(u32 *)(data + 30);
	key.sport = *(u16 *)(data + 34);
	key.dport = *(u16 *)(data + 36);
	at = key.proto == 1 ? 0 : map_lookup(&fast_keys, &key);
	if (!at) {
		key.sport = key.dport = key.proto = 0;
		at = map_lookup(&fast_keys, &key);
	}
	if (!at)
		return fast_done(FAST_UNKNOWN);
	in = at->way & 1;
	index = at->way >> 1;
	record = map_lookup(&fast_records, &index);
	if (!record)
		return fast_done(FAST_DEAD);
	generation = *(volatile u32 *)&record->generation;
	if (!generation || generation != at->generation)
		return fast_done(FAST_DEAD);
	/* Its virtual MAC is the shard's. */
	if (record->shard != ((u32)data[4] << 8 | data[5]))
		return fast_done(FAST_STRANGER);

	private = record->outside;
	index = in ? record->outside : record->inside;
	from = map_lookup(&fast_devices, &index);
	index = in ? record->inside : record->outside;
	to = map_lookup(&fast_devices, &index);
	if (!from || !to)
		return fast_done(FAST_DEAD);
	if (same_mac(data + 6, from->mac))
		return fast_done(FAST_STRANGER);
	if ((!in || private) && !same_mac(data + 6, in ? record->hop.mac : record->backend.mac))
		return fast_done(FAST_STRANGER);
	/* Who may be cut into fragments needs an identification of the public address (R20), which the worker has. */
	if (!in && !private && !(data[20] & 0x40))
		return fast_done(FAST_ODD);

	index = record->place >> 16;
	revision = map_lookup(&fast_all, &index);
	if (!revision || record->made < *(volatile u64 *)revision)
		return fast_done(FAST_REVISED);
	if (revised(record->place, record->made) || (private && revised(record->far_place, record->made)))
		return fast_done(FAST_REVISED);

	hop = in ? &record->backend : &record->hop;
	wire = skb->gso_size ? header + skb->gso_size : total;
	if ((wire < total ? wire : total) > hop->mtu)
		return fast_done(FAST_LONG);

	index = record->shard;
	word = map_lookup(&words, &index);
	if (!word)
		return fast_done(FAST_LEASE);
	now = ktime_get_boot_ns();
	grace = now >= until(word, record, 0);
	if (grace && now >= until(word, record, 1))
		return fast_done(FAST_LEASE);
	/* Between two networks nobody repeats anything (guard.c). */
	if (grace && private && record->inside != record->outside)
		return fast_done(FAST_LEASE);

	/* From here on it can no longer be given to the worker. */
	old_ip = in ? key.dst : key.src;
	old_port = in ? key.dport : key.sport;
	new_ip = private ? old_ip : in ? record->backend_ip : record->public_ip;
	new_port = private ? old_port : in ? record->backend_port : record->public_port;
	if (!private) {
		*(u32 *)(data + (in ? 30 : 26)) = new_ip;
		*(u16 *)(data + (in ? 36 : 34)) = new_port;
	}
	ttl = *(u16 *)(data + 22);
	data[22] -= 1;
	sum = *(u16 *)(data + 24);
	sum = fast_sum(sum, ttl, *(u16 *)(data + 22));
	sum = fast_sum(sum, old_ip & 0xffff, new_ip & 0xffff);
	*(u16 *)(data + 24) = fast_sum(sum, old_ip >> 16, new_ip >> 16);
	if (grace) {
		put_mac(data + 6, to->mac);
	} else {
		/* The virtual MAC that it was sent to. */
		put_mac(data + 6, data);
	}
	put_mac(data, hop->mac);
	/* Whole super-packets and partial checksums as well: the helper knows which of them covers what. */
	wanted = 34 + (tcp ? 16 : 6);
	index = tcp ? 0 : F_MARK_MANGLED_0;
	if (!private && (l4_csum_replace(skb, wanted, old_ip, new_ip, index | F_PSEUDO_HDR | 4) ||
			 l4_csum_replace(skb, wanted, old_port, new_port, index | 2)))
		return fast_done(FAST_DROPPED);

	seen = in ? &record->in : &record->out;
	*(volatile u64 *)&seen->last_ns = now;
	if (tcp && !in) {
		if ((int)(sequence - seen->next) > 0)
			*(volatile u32 *)&seen->next = sequence;
		if ((int)(acked - seen->acked) > 0)
			*(volatile u32 *)&seen->acked = acked;
	} else if (tcp) {
		/* In the remote's name anybody may write: what begins where the last octet ended, and acknowledges what was sent,
		 * as the worker has it (nat/tcp.rs). */
		wanted = *(volatile u32 *)&record->out.acked;
		if ((int)(wanted - seen->next) < 0)
			wanted = seen->next;
		if (begin == wanted)
			*(volatile u32 *)&seen->next = sequence;
		wanted = *(volatile u32 *)&record->out.next;
		if (wanted - acked < WINDOW_MAX && (int)(acked - seen->acked) > 0)
			*(volatile u32 *)&seen->acked = acked;
	}
	/* Behind all that is read of an entry that is taken back, before the look at whether it was: each of these is a barrier. */
	__sync_fetch_and_add(&seen->packets, 1);
	__sync_fetch_and_add(&seen->octets, total);

	/* Past the guard, which looks at more in grace. It came to an address that is none of the device's own, which not
	 * every kernel forgets on the way to another namespace. */
	peer = to->peer && !grace && !skb_change_type(skb, PACKET_HOST);
	if (peer)
		now = ktime_get_boot_ns();
	/* The last look: it is still the record's, and the shard still ours. */
	if (*(volatile u32 *)&record->generation != generation || now >= until(word, record, grace))
		return fast_done(FAST_DROPPED);
	fast_tally((grace ? FAST_GRACE_OUT : FAST_OUT) + in, total);
	return peer ? redirect_peer(to->ifindex, 0) : redirect(to->ifindex, 0);
}
