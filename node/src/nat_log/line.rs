//! One line: an RFC 5424 message with structured data, without a text. The names are those of the IETF's draft on syslog for
//! NAT (draft-ietf-behave-syslog-nat-logging) where it has any. Reading is total: what is no such line is nothing.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use control::port_log::{PortFate, PortUse};
use engine::record::Proto;
use engine::sessions::SessionFate;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// local0, informational (RFC 5424 section 6.2.1).
const PRIORITY: &str = "<134>1";
/// Data elements of ours carry the enterprise number that is reserved for documentation (RFC 5612): we have none.
const BLOCK: &str = "npblk@32473";
const MARK: &str = "nmark@32473";
const SESSION: &str = "nsess";
const HOST_MAX: usize = 255;

/// A range of ports, and what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BlockLine {
    pub(super) fate: PortFate,
    /// The entry of the control log.
    pub(super) index: u64,
    pub(super) ports: PortUse,
}

/// A mapping that came or went. Without the remote end unless destinations are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SessionLine {
    pub(super) fate: SessionFate,
    pub(super) proto: u8,
    pub(super) inside: (Ipv4Addr, u16),
    pub(super) public: (Ipv4Addr, u16),
    pub(super) remote: Option<(Ipv4Addr, u16)>,
    /// Whose block it stands on.
    pub(super) network: String,
    pub(super) backend: String,
}

/// What a line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Body {
    /// So many lines follow, and they are all that stands.
    All {
        cluster: String,
        index: u64,
        count: usize,
    },
    Block(BlockLine),
    Session(SessionLine),
}

/// A line and its time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    pub(super) unix_ms: u64,
    pub(super) body: Body,
}

/// RFC 3339, in UTC, with milliseconds.
#[must_use]
pub fn time_text(unix_ms: u64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000);
    time.ok().and_then(|time| time.format(&format).ok()).unwrap_or_else(|| "-".to_owned())
}

/// Milliseconds since 1970, of a time in the form of RFC 3339.
#[must_use]
pub fn parse_time(text: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

/// A host name as the header takes it.
pub(super) fn host(name: &str) -> String {
    name.chars().take(HOST_MAX).map(|c| if c.is_ascii_graphic() { c } else { '-' }).collect()
}

impl Line {
    /// Appends it to `text`, with its end.
    pub(super) fn write(&self, host: &str, text: &mut String) {
        let (id, msgid) = match &self.body {
            Body::All { .. } => (MARK, "PBALL"),
            Body::Block(block) => (BLOCK, block_msgid(block.fate)),
            Body::Session(session) if session.fate == SessionFate::Opened => (SESSION, "SADD"),
            Body::Session(_) => (SESSION, "SDEL"),
        };
        let time = time_text(self.unix_ms);
        let _infallible = write!(text, "{PRIORITY} {time} {host} NAT - {msgid} [{id}");
        let mut put = |name: &str, value: &str| {
            let _infallible = write!(text, " {name}=\"{}\"", escaped(value));
        };
        match &self.body {
            Body::All { cluster, index, count } => {
                put("CLUSTER", cluster);
                put("INDEX", &index.to_string());
                put("COUNT", &count.to_string());
            }
            Body::Block(BlockLine { index, ports, .. }) => {
                put("SSUBIX", &ports.network);
                ends(&mut put, (ports.inside, None), (ports.public, Some(ports.first)));
                put("XEPORT", &ports.last.to_string());
                put("BACKEND", &ports.backend);
                put("INDEX", &index.to_string());
            }
            Body::Session(session) => {
                put("SSUBIX", &session.network);
                ends(&mut put, (session.inside.0, Some(session.inside.1)), (session.public.0, Some(session.public.1)));
                put("PROTO", &session.proto.to_string());
                if let Some((ip, port)) = session.remote {
                    put("XDADDR", &ip.to_string());
                    put("XDPORT", &port.to_string());
                }
                put("BACKEND", &session.backend);
            }
        }
        text.push_str("]\n");
    }

    /// What a line says, if it is one of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let rest = text.trim_end().strip_prefix(PRIORITY)?.strip_prefix(' ')?;
        let mut head = rest.splitn(6, ' ');
        let unix_ms = parse_time(head.next()?)?;
        let (_host, app, _process, msgid) = (head.next()?, head.next()?, head.next()?, head.next()?);
        let fields = Fields::parse(head.next()?)?;
        if app != "NAT" {
            return None;
        }
        let body = match msgid {
            "PBALL" => {
                let (cluster, index) = (fields.text("CLUSTER")?.to_owned(), fields.number("INDEX")?);
                Body::All { cluster, index, count: fields.number("COUNT")? }
            }
            "PBADD" => Body::Block(fields.block(PortFate::Granted)?),
            "PBDRAIN" => Body::Block(fields.block(PortFate::Draining)?),
            "PBDEL" => Body::Block(fields.block(PortFate::Released)?),
            "SADD" => Body::Session(fields.session(SessionFate::Opened)?),
            "SDEL" => Body::Session(fields.session(SessionFate::Closed)?),
            _ => return None,
        };
        Some(Self { unix_ms, body })
    }
}

const fn block_msgid(fate: PortFate) -> &'static str {
    match fate {
        PortFate::Granted => "PBADD",
        PortFate::Draining => "PBDRAIN",
        PortFate::Released => "PBDEL",
    }
}

fn ends(
    put: &mut impl FnMut(&str, &str),
    (inside, inside_port): (Ipv4Addr, Option<u16>),
    (public, public_port): (Ipv4Addr, Option<u16>),
) {
    put("IATYP", "IPv4");
    put("ISADDR", &inside.to_string());
    if let Some(port) = inside_port {
        put("ISPORT", &port.to_string());
    }
    put("XATYP", "IPv4");
    put("XSADDR", &public.to_string());
    if let Some(port) = public_port {
        put("XSPORT", &port.to_string());
    }
}

/// RFC 5424 section 6.3.3. Control characters, which it allows, would break the line.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '"' | '\\' | ']') {
            out.push('\\');
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}

/// Parameters of the one data element.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn parse(text: &str) -> Option<Self> {
        let mut chars = text.strip_prefix('[')?.chars().peekable();
        let mut fields = Vec::new();
        while chars.next_if(|c| *c != ' ' && *c != ']').is_some() {}
        while chars.next()? == ' ' {
            let mut name = String::new();
            while let Some(c) = chars.next_if(|c| *c != '=') {
                name.push(c);
            }
            if chars.next() != Some('=') || chars.next() != Some('"') {
                return None;
            }
            let mut value = String::new();
            loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => value.push(chars.next()?),
                    c => value.push(c),
                }
            }
            fields.push((name, value));
        }
        Some(Self(fields))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    fn block(&self, fate: PortFate) -> Option<BlockLine> {
        let ports = PortUse {
            public: self.number("XSADDR")?,
            first: self.number("XSPORT")?,
            last: self.number("XEPORT")?,
            network: self.text("SSUBIX")?.to_owned(),
            inside: self.number("ISADDR")?,
            backend: self.text("BACKEND")?.to_owned(),
        };
        Some(BlockLine { fate, index: self.number("INDEX")?, ports })
    }

    fn session(&self, fate: SessionFate) -> Option<SessionLine> {
        Some(SessionLine {
            fate,
            proto: self.number("PROTO")?,
            inside: (self.number("ISADDR")?, self.number("ISPORT")?),
            public: (self.number("XSADDR")?, self.number("XSPORT")?),
            remote: self.number("XDADDR").zip(self.number("XDPORT")),
            network: self.text("SSUBIX")?.to_owned(),
            backend: self.text("BACKEND")?.to_owned(),
        })
    }
}

/// Name of a protocol's number, for people.
pub(super) fn proto_name(number: u8) -> String {
    Proto::of_number(number).map_or_else(|| number.to_string(), |proto| proto.label().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ports(backend: &str) -> PortUse {
        PortUse {
            public: Ipv4Addr::new(203, 0, 113, 1),
            first: 1024,
            last: 2047,
            network: "vnet1".into(),
            inside: Ipv4Addr::new(10, 0, 1, 1),
            backend: backend.into(),
        }
    }

    fn text(line: &Line) -> String {
        let mut text = String::new();
        line.write("n1", &mut text);
        text
    }

    #[test]
    fn a_block_and_a_session_read_as_the_rfc_has_it() {
        let block = BlockLine { fate: PortFate::Granted, index: 57, ports: ports("b1/ipconfig1") };
        let line = Line { unix_ms: 1_700_000_000_007, body: Body::Block(block) };
        assert_eq!(
            text(&line),
            "<134>1 2023-11-14T22:13:20.007Z n1 NAT - PBADD [npblk@32473 SSUBIX=\"vnet1\" IATYP=\"IPv4\" \
             ISADDR=\"10.0.1.1\" XATYP=\"IPv4\" XSADDR=\"203.0.113.1\" XSPORT=\"1024\" XEPORT=\"2047\" \
             BACKEND=\"b1/ipconfig1\" INDEX=\"57\"]\n"
        );
        let mut session = SessionLine {
            fate: SessionFate::Closed,
            proto: 6,
            inside: (Ipv4Addr::new(10, 0, 1, 1), 40_000),
            public: (Ipv4Addr::new(203, 0, 113, 1), 1030),
            remote: None,
            network: "vnet1".into(),
            backend: "b1/ipconfig1".into(),
        };
        let line = |session: &SessionLine| Line { unix_ms: 0, body: Body::Session(session.clone()) };
        assert_eq!(
            text(&line(&session)),
            "<134>1 1970-01-01T00:00:00.000Z n1 NAT - SDEL [nsess SSUBIX=\"vnet1\" IATYP=\"IPv4\" ISADDR=\"10.0.1.1\" \
             ISPORT=\"40000\" XATYP=\"IPv4\" XSADDR=\"203.0.113.1\" XSPORT=\"1030\" PROTO=\"6\" BACKEND=\"b1/ipconfig1\"]\n"
        );
        session.remote = Some((Ipv4Addr::new(198, 51, 100, 7), 443));
        assert!(text(&line(&session)).contains(" PROTO=\"6\" XDADDR=\"198.51.100.7\" XDPORT=\"443\" "));
        assert_eq!(Line::parse(&text(&line(&session))), Some(line(&session)));
    }

    #[test]
    fn times_are_those_of_rfc_3339() {
        assert_eq!(parse_time("2023-11-14T22:13:20.007Z"), Some(1_700_000_000_007));
        assert_eq!(parse_time("2023-11-14T23:13:20+01:00"), Some(1_700_000_000_000));
        for wrong in ["", "yesterday", "2023-11-14", "2023-13-14T22:13:20Z", "1969-11-14T22:13:20Z"] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_backend_is_called_its_line_is_read_back(name in any::<String>(), index in any::<u64>(), ms in 0u64..1 << 42) {
            let name: String = name.chars().filter(|c| !c.is_control()).collect();
            let block = BlockLine { fate: PortFate::Draining, index, ports: ports(&name) };
            let line = Line { unix_ms: ms, body: Body::Block(block) };
            let text = text(&line);
            prop_assert_eq!(text.matches('\n').count(), 1);
            prop_assert_eq!(Line::parse(&text), Some(line));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in any::<String>(), cut in 0usize..200) {
            let _ = Line::parse(&text);
            let line = Line { unix_ms: 5, body: Body::All { cluster: "c".into(), index: 1, count: 2 } };
            let mut whole = String::new();
            line.write("h", &mut whole);
            let _ = Line::parse(&whole[..cut.min(whole.len())]);
        }
    }
}
