//! Which prefixes the service tags of the platform have: a file with a version, which takes effect whole by one entry (D20).
//!
//! Users see the prefixes and cannot set them; who runs the platform replaces the file. Without one, no service has a prefix: a
//! made-up one would let strangers in. What a tag means in each network (`VirtualNetwork`, `Internet`) is no matter of files.
//!
//! ```toml
//! version = 2
//! [[service_tag]]
//! name = "Storage.EastUS"
//! prefixes = ["198.51.100.0/24"]
//! ```

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bincode::{Decode, Encode};
use serde::Serialize;
use toml::de::DeTable;
use words::Prefix;

use super::bounds::TAG_PREFIXES_MAX;
use super::tag::Tag;
use crate::toml_reader::{ConfigError, Reader, Source};

/// Where health probes come from, and where instances find DHCP relay and DNS (S35).
pub const PLATFORM_ADDRESS: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// Where instances find what is said of themselves (S35).
pub const METADATA_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Longest file: each prefix as it is written, and as much again for names and comments.
pub const FILE_LEN_MAX: usize = 2 * TAG_PREFIXES_MAX * 22 + 4_096;

/// Prefixes of service tags.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct ServiceTags {
    /// Rises with each file; the built-in one has version 0.
    pub version: u64,
    /// By tag, sorted, none twice. A tag that is not here has none.
    pub prefixes: BTreeMap<Tag, Vec<Prefix>>,
}

impl Default for ServiceTags {
    /// What is there before any file.
    fn default() -> Self {
        let probes = vec![Prefix { network: PLATFORM_ADDRESS, len: 32 }];
        Self { version: 0, prefixes: BTreeMap::from([(Tag::AzureLoadBalancer, probes)]) }
    }
}

impl ServiceTags {
    /// The prefixes of a tag that does not depend on the network; `Storage` has those of all regions besides its own.
    #[must_use]
    pub fn of(&self, tag: Tag) -> Vec<Prefix> {
        let own = |tag: &Tag| self.prefixes.get(tag).into_iter().flatten().copied();
        let mut all: Vec<Prefix> = match tag {
            Tag::Storage => Tag::all()
                .filter(|of| matches!(of, Tag::Storage | Tag::StorageIn(_)))
                .flat_map(|tag| own(&tag).collect::<Vec<_>>())
                .collect(),
            Tag::VirtualNetwork
            | Tag::AzureLoadBalancer
            | Tag::Internet
            | Tag::AzureTrafficManager
            | Tag::StorageIn(_)
            | Tag::SqlIn(_) => own(&tag).collect(),
        };
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What is wrong with one that somebody proposes: why, and what would be right.
    pub(crate) fn issue(&self) -> Option<(String, String)> {
        let count: usize = self.prefixes.values().map(Vec::len).sum();
        if count > TAG_PREFIXES_MAX {
            return Some((
                format!("too many prefixes of service tags: {count}"),
                format!("at most {TAG_PREFIXES_MAX}"),
            ));
        }
        let fixed =
            self.prefixes.iter().find(|(tag, prefixes)| is_fixed(**tag) && **prefixes != Self::default().of(**tag));
        if let Some((tag, _)) = fixed {
            return Some((
                format!("the cluster itself says what {tag} means"),
                "leave that tag out of the file".into(),
            ));
        }
        let odd = self.prefixes.values().flatten().find(|prefix| prefix.normal() != **prefix || prefix.len == 0)?;
        Some((format!("{odd} is no prefix of a service"), "write a network of /1 to /32 without host bits".into()))
    }

    /// Reads the platform's file. `file` is only used in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it, in order of lines.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<ConfigError>> {
        let mut source = Source::new(file, text);
        if text.len() > FILE_LEN_MAX {
            let value = format!("{} bytes", text.len());
            source.error(None, "file", &value, "is too large", &format!("at most {FILE_LEN_MAX} bytes"));
            return Err(source.errors);
        }
        match DeTable::parse(text) {
            Ok(table) => {
                let root = Reader::new(&mut source, table.get_ref(), String::new(), 0);
                let tags = read(&mut source, root);
                if source.errors.is_empty()
                    && let Some((problem, remedy)) = tags.issue()
                {
                    source.error(None, "service_tag", "", &problem, &remedy);
                }
                if source.errors.is_empty() { Ok(tags) } else { Err(source.errors) }
            }
            Err(error) => {
                let line = error.span().map(|span| source.line_at(span.start));
                source.error(line, "syntax", "", error.message(), "see https://toml.io for the syntax");
                Err(source.errors)
            }
        }
    }
}

/// Whether the cluster itself says which prefixes a tag has.
const fn is_fixed(tag: Tag) -> bool {
    tag.is_of_network() || matches!(tag, Tag::AzureLoadBalancer)
}

fn read(source: &mut Source<'_>, mut root: Reader<'_, '_>) -> ServiceTags {
    let mut tags = ServiceTags { version: root.number(source, "version", 0), ..ServiceTags::default() };
    if tags.version == 0 {
        let line = source.line_of("version");
        source.error(line, "version", "0", "is the version without any file", "write version = 1 or more, and rise");
    }
    for mut reader in root.tables(source, "service_tag") {
        let name = reader.string(source, "name");
        let tag = name.and_then(|name| match Tag::named(&name) {
            Ok(tag) if is_fixed(tag) => {
                let problem = "means what the cluster itself says";
                reader.refuse(source, "name", &name, problem, "leave that tag out of the file");
                None
            }
            Ok(tag) => Some(tag),
            Err(_) => {
                let known: Vec<String> = Tag::all().filter(|tag| !is_fixed(*tag)).map(|tag| tag.to_string()).collect();
                reader.refuse(source, "name", &name, "is no service tag", &format!("use one of: {}", known.join(", ")));
                None
            }
        });
        let mut prefixes = Vec::new();
        for text in reader.strings(source, "prefixes") {
            prefixes.extend(reader.parse::<Prefix>(source, "prefixes", &text, "a network such as \"10.0.0.0/16\""));
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        if let Some(tag) = tag
            && tags.prefixes.insert(tag, prefixes).is_some()
        {
            reader.refuse(source, "name", &tag.to_string(), "stands twice", "list each tag once");
        }
        reader.finish(source);
    }
    root.finish(source);
    tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nsg::tag::Region;

    #[test]
    fn a_file_gives_services_their_prefixes_and_storage_has_those_of_all_regions() {
        let text = "version = 3\n[[service_tag]]\nname = \"storage.eastus\"\nprefixes = [\"198.51.100.0/24\"]\n\
                    [[service_tag]]\nname = \"Storage\"\nprefixes = [\"192.0.2.0/25\", \"192.0.2.0/25\"]\n";
        let tags = ServiceTags::parse("tags.toml", text).expect("good");
        let prefix = |text: &str| text.parse::<Prefix>().expect("a prefix");
        assert_eq!(tags.of(Tag::StorageIn(Region::EastUs)), [prefix("198.51.100.0/24")]);
        assert_eq!(tags.of(Tag::Storage), [prefix("192.0.2.0/25"), prefix("198.51.100.0/24")]);
        assert_eq!(tags.of(Tag::AzureLoadBalancer), [prefix("168.63.129.16/32")]);
        assert!(tags.of(Tag::SqlIn(Region::WestUs)).is_empty());
    }

    #[test]
    fn a_file_cannot_say_what_the_cluster_says_itself_and_names_tags_that_there_are() {
        let of = |name: &str, prefix: &str| {
            let text = format!("version = 1\n[[service_tag]]\nname = \"{name}\"\nprefixes = [\"{prefix}\"]\n");
            let errors = ServiceTags::parse("tags.toml", &text).expect_err("refused");
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert!(
            of("Internet", "192.0.2.0/24")
                .contains("tags.toml:3: service_tag[0].name = Internet: means what the cluster")
        );
        assert!(of("AzureLoadBalancer", "192.0.2.0/24").contains("means what the cluster itself says"));
        assert!(of("Mine", "192.0.2.0/24").contains("is no service tag; use one of: AzureTrafficManager, Storage"));
        assert!(of("Storage", "192.0.2.1/24").contains("192.0.2.1/24 is no prefix of a service"));
        assert!(of("Storage", "0.0.0.0/0").contains("0.0.0.0/0 is no prefix of a service"));
        let errors = ServiceTags::parse("tags.toml", "").expect_err("refused");
        assert!(errors[0].to_string().contains("version = 0: is the version without any file"));
    }
}
