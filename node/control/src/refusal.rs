//! Why a command changes nothing: what the log says of it ([`crate::Outcome`]), and what a leader says that does not propose it.
//!
//! One table: number, name, values, and the two sentences that people read. The numbers are stored and sent; a refusal is part
//! of the replicated state, so a number and its values never change their meaning, and a new refusal takes a new number. The
//! sentences are made where they are read and may be reworded (C2). Called by `apply` and its parts, and by whoever shows one.

use std::fmt;
use std::net::Ipv4Addr;

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use engine::ids::{BackendId, ControlIndex, FrontendId, Incarnation, NodeId, ShardId};
use words::INSIDE_MAX;

use crate::limits::{BACKENDS_MAX, HINTS_MAX, NODES_MAX, PART_LEN_MAX, PARTS_MAX, REFUSAL_LEN_MAX};
use crate::probing::bounds::CHANGES_MAX;
use crate::validate::{FRONTENDS_MAX, REPLICAS_MAX};

/// So many nodes are named at most.
const NAMED_MAX: usize = 16;

/// Nodes that a refusal names, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Nodes(Vec<NodeId>);

impl FromIterator<NodeId> for Nodes {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut nodes: Vec<NodeId> = nodes.into_iter().collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.truncate(NAMED_MAX);
        Self(nodes)
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&names.join(", "))
    }
}

/// Makes the enum, its numbers and names, its encoding and its sentences from one table.
macro_rules! refusals {
    ($($(#[$doc:meta])* $code:literal $name:ident { $($field:ident: $type:ty),* } $why:literal, $remedy:literal;)*) => {
        /// Why a command changes nothing.
        #[derive(Clone, PartialEq, Eq, Debug)]
        #[expect(missing_docs, reason = "a value is named by its variant and said in its sentence")]
        pub enum Refusal {
            $($(#[$doc])* $name { $($field: $type),* },)*
        }

        impl Refusal {
            /// Its number in stored and sent bytes.
            #[must_use]
            pub const fn code(&self) -> u16 {
                match self { $(Self::$name { .. } => $code,)* }
            }

            /// Its name, for programs.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name { .. } => stringify!($name),)* }
            }

            /// What is in the way, for people.
            #[must_use]
            #[allow(unused_variables, reason = "a value may be said in the other sentence only")]
            pub fn why(&self) -> String {
                match self { $(Self::$name { $($field),* } => format!($why),)* }
            }

            /// What helps, for people.
            #[must_use]
            #[allow(unused_variables, reason = "a value may be said in the other sentence only")]
            pub fn remedy(&self) -> String {
                match self { $(Self::$name { $($field),* } => format!($remedy),)* }
            }

            /// One of each, with values that differ from zero.
            #[cfg(test)]
            fn samples() -> Vec<Self> {
                vec![$(Self::$name { $($field: Sample::sample()),* },)*]
            }
        }

        impl Encode for Refusal {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                self.code().encode(encoder)?;
                match self { $(Self::$name { $($field),* } => { $($field.encode(encoder)?;)* })* }
                Ok(())
            }
        }

        impl<Context> Decode<Context> for Refusal {
            fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
                match u16::decode(decoder)? {
                    $($code => Ok(Self::$name { $($field: Decode::decode(decoder)?),* }),)*
                    _ => Err(DecodeError::Other("a refusal with a number that this build does not know")),
                }
            }
        }

        bincode::impl_borrow_decode!(Refusal);
    };
}

refusals! {
    // The log itself.
    /// No version's entry.
    1 EntryUnreadable {}
        "the entry cannot be read", "propose it again, from a fitting version";
    /// Applied before.
    2 EntryNotNext { index: ControlIndex, applied: ControlIndex }
        "entry {index} is not after {applied}, which is applied", "apply entries in order, once";
    /// No voters, or too many.
    3 NoControlConfiguration {}
        "this is no configuration of the control group", "report what raft applied";

    // Configurations.
    /// The proposer reads a file only into a valid one, so it did not look.
    100 ConfigurationInvalid {}
        "the configuration breaks a rule of its own", "see which: qnat apply --dry-run -f FILE";
    /// More than are bounded.
    101 TooManyHints { count: u64 }
        "{count} flow counts are too many", "send at most {HINTS_MAX}";
    /// Its hash is another.
    102 PlanOutdated {}
        "blocks or configuration have changed since the plan was made", "plan again: qnat apply --dry-run -f FILE";
    /// Leases and votes have one length in the cluster.
    103 TimingFixed { tick_ms: u32, heartbeat_ticks: u32, vote_ticks: u32 }
        "settings.tick_ms, heartbeat_ticks and vote_ticks cannot change while shards exist",
        "keep {tick_ms}, {heartbeat_ticks} and {vote_ticks}";
    /// A port that becomes reserved has a user.
    104 ReservedPortInUse { port: u16, address: Ipv4Addr, backend: BackendId }
        "port {port} of {address} cannot be reserved: it is leased to backend {backend}",
        "reserve ports before backends join, or take that backend out of its pool until its blocks have drained";
    /// With those that retire.
    105 TooManyFrontends { declared: u64, leaving: u64 }
        "{declared} frontends and {leaving} that are on their way out are too many",
        "at most {FRONTENDS_MAX}; wait until the old ones have drained: qnat get frontends";
    /// With those whose blocks drain.
    106 TooManyBackends { declared: u64, leaving: u64 }
        "{declared} IP configurations and {leaving} that are on their way out are too many",
        "at most {BACKENDS_MAX}; wait until the old ones have drained: qnat get backends";
    /// A frontend stays in its shard (M3).
    107 RulesLinkShards { one: Ipv4Addr, other: Ipv4Addr }
        "inbound rules lead from {one} and from {other} to the same backends, and these frontends are in different shards",
        "use frontends of one shard, see qnat get frontends, or declare new ones together with the rules";
    /// Its ports are somebody's.
    108 AllPortsOfGranting { address: Ipv4Addr }
        "a rule for all ports cannot have {address}: some of its ports are granted, or still drain",
        "take it out of outbound and other rules first, and wait until it has drained: qnat get frontends";
    /// It would need two homes.
    109 OwnAddressElsewhere { backend: BackendId, address: Ipv4Addr }
        "backend {backend} has {address} as its own, and its pool's frontends are in other shards",
        "apply it without its public_ip first, and with it once qnat get frontends no longer lists {address}";
    /// Empty, too long, or one too many.
    110 NoPart { number: u32, len: u64 }
        "part {number} of {len} bytes is none", "at most {PARTS_MAX} parts of 1 to {PART_LEN_MAX} bytes";
    /// The end came, a part did not.
    111 PartMissing { part: u32, count: u32 }
        "part {part} of {count} of the configuration is missing", "apply the configuration again: qnat apply -f FILE";
    /// They do not come to the hash.
    112 PartsDiffer {}
        "the parts of the configuration are not those that were sent",
        "apply the configuration again: qnat apply -f FILE";
    /// They come to no configuration of this version.
    113 PartsUnreadable {}
        "the configuration cannot be read", "apply it from a fitting version";
    /// One attempt is collected at a time.
    114 AttemptReplaced { attempt: ControlIndex, newest: ControlIndex }
        "attempt {attempt} was replaced by attempt {newest}, which came after it",
        "apply the configuration again: qnat apply -f FILE";
    /// None is being collected.
    115 AttemptOver { attempt: ControlIndex }
        "attempt {attempt} is over: another configuration has taken effect, or it took too long",
        "apply the configuration again: qnat apply -f FILE";
    /// A member could not read what the cluster would write.
    116 LevelTooLow { level: u16, needs: u16 }
        "the cluster is at level {level}, and this configuration needs level {needs}", "raise it: qnat cluster level {needs}";
    /// Prefixes that no file could say.
    120 ServiceTagsInvalid {}
        "these are no prefixes of service tags", "give them by a file, which is checked: qnat service-tags -f FILE";
    /// The platform's files have an order.
    121 ServiceTagsNotNewer { version: u64, newest: u64 }
        "version {version} of the service tags is not newer than {newest}, which is there",
        "raise the version with each file; see: qnat get service-tags";
    /// More than are bounded.
    122 TooManyHealthChanges { count: u64 }
        "{count} changes of health are too many", "send at most {CHANGES_MAX}";

    // Nodes and their lives.
    /// A command for a node that the registry does not have.
    200 NodeUnknown { node: NodeId }
        "node {node} is not in this cluster", "see qnat get nodes";
    /// It registers, and never joined.
    201 NodeNotJoined { node: NodeId }
        "node {node} is not in this cluster", "let it join: qnat join request --help";
    /// What asks was a member.
    202 NodeRemoved { node: NodeId }
        "node {node} was removed", "empty its data directory and let it join again";
    /// An attempt that an operator overruled.
    203 NodeRemovedSinceAsked { node: NodeId }
        "node {node} was removed after it asked", "start it again: it asks anew";
    /// The command is late or repeated.
    204 NodeRemovedAlready { node: NodeId }
        "node {node} is removed already", "nothing to do";
    /// Its number is a member's, with another key.
    205 NodeNumberTaken { node: NodeId, incarnation: Incarnation }
        "node {node} is a member already, and its key is another one",
        "choose another number, or, if that machine is powered off for good: qnat node-remove {node} --incarnation {incarnation}";
    /// Its data directory is not the newest.
    206 NodeJoinedAgain { node: NodeId, raft_id: u64, former: u64 }
        "node {node} has joined again since, with raft id {raft_id}, not {former}",
        "stop the process that uses the old data directory";
    /// A late registration.
    207 StartReplaced { node: NodeId }
        "this start of node {node} has been replaced by a newer one", "start it again";
    /// What ends an incarnation names it.
    208 NodeIsAnotherIncarnation { node: NodeId, incarnation: Incarnation, named: Incarnation }
        "node {node} is incarnation {incarnation} now, not {named}", "look again and decide anew: qnat get nodes";
    /// It has never run, or is no member.
    209 NodeNotRegistered { node: NodeId }
        "node {node} is not registered", "start it first";
    /// Nothing to resume.
    210 NodeNoMember { node: NodeId }
        "node {node} is no member", "see qnat get nodes";
    /// It registers interfaces as none may have them.
    211 InsideInterfaces { node: NodeId, interfaces: u64, networks: u64 }
        "node {node} registers {interfaces} inside interfaces, to {networks} virtual networks",
        "at most {INSIDE_MAX}, each with a virtual_network of its own, see [[data.inside]] in its node.toml";
    /// It cannot read what the cluster writes.
    212 NodeLevelTooLow { node: NodeId, supports: u16, level: u16 }
        "node {node} supports cluster level {supports}, the cluster is at {level}",
        "start a newer version of qnat on it";
    /// A member could not read what the cluster would write.
    213 LevelTooHigh { node: NodeId, supports: u16 }
        "node {node} supports level {supports} only", "start a newer version of qnat on it first";
    /// Old records would become unreadable.
    214 LevelLowered { level: u16 }
        "the cluster is at level {level} already", "levels are never lowered";
    /// As many members as may be.
    215 ClusterFull {}
        "the cluster has {NODES_MAX} members already", "remove one that is gone first: qnat get nodes";
    /// Its removal would leave nobody.
    216 LastNode { node: NodeId }
        "no registered node would be left without node {node}",
        "let another node join first: qnat join request --help";
    /// Its drain would find nobody.
    217 NobodyToDrainTo { node: NodeId }
        "no node would be left to take what node {node} has", "let another node join first: qnat join request --help";

    // Shards and their epochs.
    /// No such shard.
    300 ShardUnknown { shard: ShardId }
        "shard {shard} does not exist", "see qnat get shards";
    /// What is said about one epoch fits no other.
    301 ShardInAnotherEpoch { shard: ShardId, epoch: u32, named: u32 }
        "shard {shard} is in epoch {epoch}, not {named}", "the command is late: ignore it";
    /// Not as the proposer saw it.
    302 ShardChanged { shard: ShardId, changed: ControlIndex }
        "shard {shard} has changed at index {changed}", "look again and decide anew";
    /// None, too many, or one twice.
    303 MembersNotDistinct {}
        "members must be distinct nodes", "name 1 to {REPLICAS_MAX}";
    /// Nobody joins an epoch that ends.
    304 MembersWhileSealed {}
        "the shard is being sealed for re-creation", "wait until its new epoch has begun";
    /// One change at a time.
    305 MembersChanging {}
        "another change of its members is under way", "wait until it is done: qnat get shards";
    /// Who forgot comes back as somebody else.
    306 MovedOut { incarnation: Incarnation }
        "incarnation {incarnation} was moved out of this shard and has forgotten its log",
        "restart that node first: a new incarnation may join";
    /// A late report.
    307 ReplicasNotLeaving {}
        "none of these replicas is leaving", "nothing to do: the report is late or repeated";
    /// A late report.
    308 VotersNotInMap {}
        "the configuration names a replica that is not in the map", "the report is late: ignore it";
    /// A report about voters comes after the seal.
    309 VotersWhileSealed {}
        "the epoch is being sealed", "nothing to do";
    /// Sealed twice.
    310 SealedAlready {}
        "the epoch is being sealed already", "nothing to do";
    /// Silence is not death.
    311 NoReplicaGone {}
        "no replica of the epoch is gone", "wait for the nodes, or remove one that is powered off: qnat node-remove";
    /// A late report.
    312 SealNotAsked {}
        "the epoch is not being sealed", "nothing to do";
    /// A stranger's report.
    313 NoReplica { incarnation: Incarnation }
        "incarnation {incarnation} is no replica of the epoch", "nothing to do";
    /// A seal comes first.
    314 NotSealed {}
        "the epoch is not sealed", "seal it first";
    /// The old epoch may still commit.
    315 QuorumPossible {}
        "a quorum of the old epoch may still be alive", "wait until more of its replicas have sealed";
    /// Whoever may hold the table has not said so.
    316 SurvivorUnknown {}
        "no survivor holds the table, and a replica that may has neither sealed nor gone",
        "bring that node back, or remove it after powering it off: qnat node-remove";
    /// The holder of a lost shard is gone too.
    317 HolderGone { incarnation: Incarnation }
        "incarnation {incarnation} is over", "name the newest one of a live node";
    /// They are counted in 32 bits.
    318 EpochsSpent {}
        "the shard has had 2^32 epochs", "declare a new frontend";

    // Blocks and frontends.
    /// An empty report.
    400 NoBlockNamed {}
        "the report names no block", "nothing to do";
    /// Fenced before.
    401 BlockNotDraining {}
        "the block does not drain", "the report is late or repeated: ignore it";
    /// Another reclaim's fence.
    402 BlockOfAnotherReclaim { reclaim: ControlIndex, named: ControlIndex }
        "the block drains under index {reclaim}, not {named}", "the report is late or repeated: ignore it";
    /// Another shard's fence.
    403 BlockOfAnotherShard { shard: ShardId }
        "the block is not of shard {shard}", "the report is late or repeated: ignore it";
    /// An empty command.
    410 NoFrontendNamed {}
        "no frontend is named", "nothing to do";
    /// Retired before.
    411 FrontendUnknown { frontend: FrontendId }
        "frontend {frontend} does not exist", "nothing to do";
    /// It does not retire.
    412 FrontendDeclared { frontend: FrontendId }
        "frontend {frontend} is declared", "remove it from the configuration first";
    /// Somebody may still send by it.
    413 FrontendInUse { frontend: FrontendId }
        "frontend {frontend} has leases or draining blocks", "wait until they are reclaimed";

    // The stop token.
    /// Nobody to return it, or to take it from.
    500 StopTokenFree {}
        "nobody holds the stop token", "nothing to do";
    /// One node stops at a time.
    501 StopTokenTaken { holder: NodeId, taken: ControlIndex }
        "node {holder} holds the stop token since index {taken}",
        "wait until it is back, or take the token back: qnat stop-token revoke";
    /// Returned by another node.
    502 StopTokenOfAnother { holder: NodeId }
        "node {holder} holds the stop token", "only its holder returns it";
    /// It has never run, or is no member.
    503 StopOfUnregistered { node: NodeId }
        "node {node} is not registered", "only a running member can stop";
    /// By the map, by its group, or by what its owner measured.
    504 ShardNotRedundant { shard: ShardId }
        "shard {shard} is not fully redundant", "wait until it is: qnat status; to stop without the token: qnat stop --now";
    /// By the leader's ear.
    505 NodeSilent { node: NodeId }
        "node {node} is not heard", "wait until it is whole: qnat status; to stop without the token: qnat stop --now";
    /// By the leader's own group.
    506 ControlNotInStep {}
        "the control group has not all its voters in step",
        "wait until it is whole: qnat status; to stop without the token: qnat stop --now";
    /// Nobody has measured it.
    507 ShardUnmeasured { shard: ShardId }
        "shard {shard} has no owner that says who is in step",
        "wait until it is whole: qnat status; to stop without the token: qnat stop --now";
    /// By what its owner measured.
    508 ShardNotInStep { shard: ShardId, have: Nodes, want: Nodes }
        "shard {shard} is not fully redundant: nodes {have} of {want} vote and are in step",
        "wait until it is whole: qnat status; to stop without the token: qnat stop --now";
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why(), self.remedy())
    }
}

impl Refusal {
    /// Its bytes in a frame between members: as in the state.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        bincode::encode_to_vec(self, bincode::config::standard())
            .expect("encoding plain data into memory does not fail")
    }

    /// Reads [`to_bytes`](Self::to_bytes); `None` for anything else, and for the number of another build.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let config = bincode::config::standard().with_limit::<REFUSAL_LEN_MAX>();
        let (refusal, read) = bincode::decode_from_slice(bytes, config).ok()?;
        (read == bytes.len()).then_some(refusal)
    }
}

/// A length as a refusal keeps it.
pub(crate) fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
use tests::Sample;

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;
