//! Where the guard's programs hang on a data interface, and that they still do. The kernel has two such places: one that it asks
//! before all of traffic control (tcx, Linux 6.6), which costs a packet least and where the guard is first, and clsact, a queue
//! discipline that filters hang on, which older kernels have alone. By either what hangs there outlives the process.

use std::io;
use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::programs::tc::{NlOptions, SchedClassifierLinkId, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use crate::bpf::{self, Program};
use crate::filters;
use crate::guard_error::GuardError;
use crate::link::Link;

/// The program's name; also the name of its filter on the interfaces.
const GUARD: &str = "qnat_guard";
/// The one that looks at what comes in.
const TAGGED: &str = "qnat_tagged";
/// The one that looks at it and carries it on; only where there is room for flows.
const FAST: &str = "qnat_fast";

/// All that a life may have left.
const EVERY: [(&str, TcAttachType); 3] =
    [(GUARD, TcAttachType::Egress), (TAGGED, TcAttachType::Ingress), (FAST, TcAttachType::Ingress)];

/// By which of the kernel's places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Before traffic control.
    Tcx,
    /// As filters of traffic control, the guard as the first of them.
    Clsact,
}

impl By {
    /// The best that this kernel has.
    ///
    /// # Errors
    /// If it does not say.
    pub fn best(link: &Link) -> io::Result<Self> {
        match bpf::programs_at(link.ifindex, TcAttachType::Egress) {
            Ok(_) => Ok(Self::Tcx),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(Self::Clsact),
            Err(error) => Err(error),
        }
    }
}

/// A loaded program and where it belongs.
struct Hook {
    name: &'static str,
    side: TcAttachType,
    program: Program,
    number: u32,
}

/// The programs of a life.
pub(crate) struct Hooks {
    by: By,
    hooks: Vec<Hook>,
}

/// What hangs on one interface by clsact; by tcx the kernel knows it all.
pub(crate) type Attachments = Vec<(&'static str, SchedClassifierLinkId)>;

impl Hooks {
    /// Loads them: with a fast path or without one.
    ///
    /// # Errors
    /// If the kernel refuses one.
    pub(crate) fn load(ebpf: &mut Ebpf, by: By, has_fast_path: bool) -> Result<Self, GuardError> {
        let [guard, tagged, fast] = EVERY;
        let mut hooks = Vec::new();
        for (name, side) in [guard, if has_fast_path { fast } else { tagged }] {
            let program = program(ebpf, name)?;
            program.load()?;
            let number = program.info()?.id();
            let program = Program::from(program.fd()?.as_fd().try_clone_to_owned().map_err(ProgramError::from)?);
            hooks.push(Hook { name, side, program, number });
        }
        Ok(Self { by, hooks })
    }

    /// The number by which the kernel knows the guard.
    pub(crate) fn guard(&self) -> u32 {
        self.hooks[0].number
    }

    /// And the fast path.
    pub(crate) fn fast_path(&self) -> Option<u32> {
        self.hooks.iter().find(|hook| hook.name == FAST).map(|hook| hook.number)
    }

    /// Hangs them on an interface, in place of what is left of earlier ones.
    ///
    /// # Errors
    /// See `GuardError`.
    pub(crate) fn put(&self, ebpf: &mut Ebpf, link: &Link, attachments: &mut Attachments) -> Result<(), GuardError> {
        for (name, gone) in attachments.drain(..) {
            // It may be gone already; this makes the program forget it.
            let _gone = program(ebpf, name)?.detach(gone);
        }
        remove_leftover(link)?;
        let io = |op, source| GuardError::Io { op, interface: link.name.clone(), source };
        match self.by {
            By::Tcx => {
                for Hook { side, program, .. } in &self.hooks {
                    program.put_first(link.ifindex, *side).map_err(|source| io("attaching (tcx)", source))?;
                }
            }
            By::Clsact => {
                match qdisc_add_clsact(&link.name) {
                    Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(io("adding clsact", error)),
                    Ok(()) | Err(_) => {}
                }
                // The first, so that no other filter redirects a frame past it.
                let options = || TcAttachOptions::Netlink(NlOptions { priority: 1, handle: 1 });
                for hook in &self.hooks {
                    let classifier = program(ebpf, hook.name)?;
                    attachments.push((hook.name, classifier.attach_with_options(&link.name, hook.side, options())?));
                }
            }
        }
        Ok(())
    }

    /// Whether all of them hang on an interface of the calling thread's namespace.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub(crate) fn stand(&self, ifindex: u32) -> io::Result<bool> {
        for Hook { side, number, .. } in &self.hooks {
            let there = match self.by {
                By::Tcx => bpf::programs_at(ifindex, *side)?,
                By::Clsact => filters::programs_at(ifindex, *side)?,
            };
            if !there.contains(number) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes away what the kernel would keep.
    pub(crate) fn take_away(&self, ifindex: u32) {
        for Hook { side, program, .. } in self.hooks.iter().filter(|_| self.by == By::Tcx) {
            // The interface, or somebody, may have taken it along.
            let _gone = program.take_away(ifindex, *side);
        }
    }
}

/// Removes a predecessor's programs from an interface: what stands there would judge by words that nobody writes any more.
///
/// # Errors
/// When the interface does not exist or privilege is missing.
pub(crate) fn remove_leftover(link: &Link) -> Result<(), GuardError> {
    let io = |source| GuardError::Io { op: "removing what an earlier life left", interface: link.name.clone(), source };
    for (name, side) in EVERY {
        match qdisc_detach_program(&link.name, side, name) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // No clsact there, so no filter either.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(source) => return Err(io(source)),
        }
    }
    for side in [TcAttachType::Ingress, TcAttachType::Egress] {
        let numbers = match bpf::programs_at(link.ifindex, side) {
            Ok(numbers) => numbers,
            // No such hooks, so nothing hangs there.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => continue,
            Err(source) => return Err(io(source)),
        };
        if numbers.is_empty() {
            continue;
        }
        for info in SchedClassifier::query_tcx(&link.name, side)?.1 {
            if EVERY.iter().any(|(name, _)| info.name_as_str() == Some(name)) {
                let program = Program::from(info.fd()?.as_fd().try_clone_to_owned().map_err(io)?);
                program.take_away(link.ifindex, side).map_err(io)?;
            }
        }
    }
    Ok(())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, GuardError> {
    let program = ebpf.program_mut(name).ok_or(GuardError::Missing("program"))?;
    program.try_into().map_err(|error: ProgramError| error.into())
}
