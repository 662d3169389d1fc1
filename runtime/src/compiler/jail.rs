//! What the process that compiles gives up before it reads a byte of the component.
//!
//! It keeps three pipes, memory up to a cap, processor time up to a cap, and threads. On Linux the kernel
//! refuses it every system call that does something else: no file can be opened, no socket made, no
//! program started, no memory made executable, no other process touched. On other systems there are
//! only the caps that the system knows: macOS, for one, does not cap memory.

use std::io;

use rustix::process::{Resource, Rlimit, getppid, getrlimit, setrlimit};

use super::worker::Request;
use crate::limits::COMPILE_STACK_BYTES_MAX;

/// Takes effect for the whole process; to be called before it has other threads.
/// Errors: what could not be given up, or the parent is gone.
pub(super) fn enter(request: &Request) -> io::Result<()> {
    end_with(request.parent)?;
    // Its own three pipes and nothing more.
    lower(Resource::Nofile, 3, 3)?;
    lower(Resource::Fsize, 0, 0)?;
    lower(Resource::Core, 0, 0)?;
    lower(Resource::Stack, COMPILE_STACK_BYTES_MAX, COMPILE_STACK_BYTES_MAX)?;
    // Memory that can be written to. Address space would be the wrong measure: allocators reserve
    // much more of it, for each thread, than they use.
    lower(Resource::Data, request.memory_bytes, request.memory_bytes)?;
    // The first ends it with a signal that says so.
    lower(Resource::Cpu, request.cpu_s, request.cpu_s.saturating_add(1))?;
    #[cfg(target_os = "linux")]
    system_calls::refuse().map_err(io::Error::other)?;
    Ok(())
}

fn end_with(parent: u32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // Asked too late if the parent ended meanwhile: then somebody else is our parent now.
    let ours = getppid().map(|pid| pid.as_raw_nonzero().get());
    match ours.and_then(|pid| u32::try_from(pid).ok()) == Some(parent) {
        true => Ok(()),
        false => Err(io::Error::other("the process that asked is gone")),
    }
}

fn lower(resource: Resource, current: u64, maximum: u64) -> io::Result<()> {
    let found = getrlimit(resource);
    let lowest = |wanted: u64, found: Option<u64>| Some(found.map_or(wanted, |found| wanted.min(found)));
    let maximum = lowest(maximum, found.maximum);
    Ok(setrlimit(resource, Rlimit { current: lowest(current, maximum), maximum })?)
}

#[cfg(target_os = "linux")]
mod system_calls {
    //! The system calls of a process that computes with threads, and the arguments they may have.

    use std::collections::BTreeMap;

    use libc::c_long;
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition,
        SeccompFilter, SeccompRule, TargetArch, apply_filter,
    };

    /// Calls that need no look at their arguments.
    const HARMLESS: [c_long; 25] = [
        // Memory that is there.
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        // Threads.
        libc::SYS_futex,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_membarrier,
        // Refused by the other filter; here it would be with this one's error.
        libc::SYS_clone3,
        // Time and chance.
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_restart_syscall,
        libc::SYS_getrandom,
        // Its own signals, for the message about a stack that overflowed.
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        // The end.
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];

    type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

    /// Refuses all others from here on, with an error rather than by ending the process: a library
    /// that looks for a file it can do without does without.
    pub(super) fn refuse() -> seccompiler::Result<()> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        // What `clone3` is asked for is in memory, where a filter cannot look. Libraries use `clone`
        // where a system does not have it.
        let only_clone = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        install(only_clone, SeccompAction::Allow, errno(libc::ENOSYS), arch)?;
        install(allowed()?, errno(libc::EPERM), SeccompAction::Allow, arch)
    }

    fn install(
        rules: Rules,
        otherwise: SeccompAction,
        then: SeccompAction,
        arch: TargetArch,
    ) -> seccompiler::Result<()> {
        let filter: BpfProgram = SeccompFilter::new(rules, otherwise, then, arch)?.try_into()?;
        apply_filter(&filter)
    }

    fn errno(number: libc::c_int) -> SeccompAction {
        SeccompAction::Errno(number.unsigned_abs())
    }

    fn allowed() -> Result<Rules, BackendError> {
        let mut rules: Rules = HARMLESS.iter().map(|&call| (call, Vec::new())).collect();
        // Each rule is one way in which a call is allowed.
        let mut allow = |call: c_long, conditions: Vec<SeccompCondition>| -> Result<(), BackendError> {
            rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
            Ok(())
        };
        allow(libc::SYS_read, vec![number(0, Is::Eq, 0)?])?;
        allow(libc::SYS_write, vec![number(0, Is::Eq, 1)?])?;
        allow(libc::SYS_write, vec![number(0, Is::Eq, 2)?])?;
        // New memory belongs to nobody else, is no file, and is never code.
        let private = Is::MaskedEq(bits(libc::MAP_SHARED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS));
        let anonymous = number(3, private, bits(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS))?;
        allow(libc::SYS_mmap, vec![no_code()?, anonymous])?;
        allow(libc::SYS_mprotect, vec![no_code()?])?;
        let thread = bits(libc::CLONE_THREAD | libc::CLONE_VM);
        allow(libc::SYS_clone, vec![number(0, Is::MaskedEq(thread), thread)?])?;
        // `abort` sends itself a signal.
        allow(libc::SYS_tgkill, vec![number(0, Is::Eq, u64::from(std::process::id()))?])?;
        Ok(rules)
    }

    fn no_code() -> Result<SeccompCondition, BackendError> {
        number(2, Is::MaskedEq(bits(libc::PROT_EXEC)), 0)
    }

    /// A condition on an argument that is a C `int`.
    fn number(argument: u8, is: Is, value: u64) -> Result<SeccompCondition, BackendError> {
        SeccompCondition::new(argument, Length::Dword, is, value)
    }

    fn bits(flags: libc::c_int) -> u64 {
        u64::from(flags.unsigned_abs())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        env,
        fs::{self, File},
        net::{TcpListener, TcpStream, UdpSocket},
        os::unix::{net::UnixStream, process::ExitStatusExt},
        process::{Command, Output},
        thread,
    };

    use super::*;
    use crate::engine::Variant;

    /// Set for the process that a test starts: this program again, with only `inside` to run.
    const INSIDE: &str = "WASMJOB_TEST_INSIDE";

    fn inside_it(doing: &str) -> Output {
        let only = ["--exact", "compiler::jail::tests::inside", "--nocapture", "--test-threads=1"];
        Command::new(env::current_exe().unwrap()).args(only).env(INSIDE, doing).output().unwrap()
    }

    fn jail_with(memory_bytes: u64, cpu_s: u64) {
        let parent = std::os::unix::process::parent_id();
        let variant = Variant::Fast;
        enter(&Request { parent, variant, memory_bytes, cpu_s, code_bytes: 0 }).unwrap();
    }

    /// Not a test of its own: what the process does that a test starts.
    #[test]
    fn inside() {
        match env::var(INSIDE).as_deref() {
            Ok("trying") => try_everything(),
            Ok("eating") => {
                jail_with(64 << 20, 60);
                let eaten: Vec<Vec<u8>> = (0..1000).map(|_| vec![1; 1 << 20]).collect();
                assert_eq!(eaten.len(), 1000);
            }
            Ok("spinning") => {
                jail_with(1 << 30, 1);
                while std::hint::black_box(true) {}
            }
            _ => {}
        }
    }

    #[cfg(target_os = "linux")]
    fn try_everything() {
        let before = env::temp_dir().join(format!("wasmjob-{}", std::process::id()));
        jail_with(1 << 30, 60);
        let refused = [
            ("read a file", File::open("/etc/passwd").is_err()),
            ("make a file", fs::write(&before, "x").is_err()),
            ("list a folder", fs::read_dir("/").is_err()),
            ("remove a file", fs::remove_file("/no/such/file").unwrap_err().raw_os_error() == Some(libc::EPERM)),
            ("look at a file", fs::metadata("/etc/passwd").is_err()),
            ("listen", TcpListener::bind("127.0.0.1:0").is_err()),
            ("connect", TcpStream::connect("127.0.0.1:9").unwrap_err().raw_os_error() == Some(libc::EPERM)),
            ("make a datagram socket", UdpSocket::bind("127.0.0.1:0").is_err()),
            ("make a pair of sockets", UnixStream::pair().is_err()),
            ("start a program", Command::new("/bin/true").spawn().is_err()),
            ("signal its parent", rustix::process::test_kill_process(getppid().unwrap()).is_err()),
            ("raise a cap", setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).is_err()),
            ("go to another folder", env::set_current_dir("/").is_err()),
        ];
        for (what, refused) in refused {
            assert!(refused, "it can {what}");
        }
        // And what it needs, it has.
        assert_eq!(thread::spawn(|| vec![7_u8; 10 << 20].len()).join().unwrap(), 10 << 20);
        assert!(thread::spawn(|| panic!("and is not ended by it")).join().is_err());
    }

    #[cfg(not(target_os = "linux"))]
    fn try_everything() {}

    #[test]
    fn it_can_compute_and_do_nothing_else() {
        let output = inside_it("trying");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_beyond_the_cap_ends_it() {
        let output = inside_it("eating");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && super::super::is_out_of_memory(&said), "{said}");
    }

    #[test]
    fn processor_time_beyond_the_cap_ends_it_with_a_signal_of_its_own() {
        let output = inside_it("spinning");
        assert_eq!(output.status.signal(), Some(rustix::process::Signal::XCPU.as_raw()), "{output:?}");
    }
}
