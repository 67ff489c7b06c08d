//! The real machine's side: programs that fail, hang or print without end, files, and the lock.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::dom0::Dom0;
use crate::host::{Call, Host};
use crate::lock::lock;

fn place(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("spindlectl-{name}-{}", std::process::id()))
}

fn shell(script: &str) -> Call {
    Call::look("sh", ["-c", script])
}

#[test]
fn a_program_that_fails_or_is_missing_is_an_error_with_its_words() {
    let mut host = Dom0::new();
    let failed = host.run(&shell("echo no luck >&2; exit 3"));
    let text = failed.expect_err("it failed").to_string();
    assert!(text.contains("no luck") && text.contains('3'), "{text}");
    let missing = host.run(&Call::look("no-such-program-here", []));
    let text = missing.expect_err("it is missing").to_string();
    assert!(text.contains("xen-utils"), "{text}");
    // Not where a user's PATH says that xl is.
    let path = host.run(&shell("echo $PATH")).expect("it ran");
    assert!(
        path.starts_with("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:"),
        "{path}"
    );
    let ran = host.run(&shell("echo $A $LC_ALL").with("A", "b"));
    assert_eq!(ran.expect("it ran"), "b C\n");
}

#[test]
fn a_program_that_hangs_is_killed_with_all_that_it_has_started() {
    let mut host = Dom0::new();
    let mark = place("hung");
    let script = format!(
        "(sleep 2; touch {}) & echo begun >&2; sleep 60",
        mark.display()
    );
    let call = Call {
        limit: Duration::from_millis(300),
        ..shell(&script)
    };
    let began = Instant::now();
    let text = host.run(&call).expect_err("it hangs").to_string();
    assert!(
        text.contains("killed after") && text.contains("begun"),
        "{text}"
    );
    assert!(began.elapsed() < Duration::from_secs(2));
    std::thread::sleep(Duration::from_secs(3));
    assert!(!mark.exists(), "nothing goes on behind our back");
    assert!(host.run(&shell("true")).is_ok());
}

#[test]
fn a_program_that_prints_without_end_is_not_kept_in_memory() {
    let failed = Dom0::new().run(&shell("head -c 80000000 /dev/zero"));
    assert!(
        failed
            .expect_err("too much")
            .to_string()
            .contains("without end")
    );
}

#[test]
fn a_program_that_has_a_device_open_is_found_by_the_devices_number() {
    use crate::host::Node;
    // Those of /dev/zero and /dev/full are the same everywhere (Linux' list of devices).
    let node = |minor| Node {
        block: false,
        major: 1,
        minor,
    };
    let mut host = Dom0::new();
    let mut child = std::process::Command::new("sh");
    let mut child = child
        .args(["-c", "exec 7</dev/full; echo; read x"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut line = [0];
    let mut said = child.stdout.take().expect("a pipe");
    std::io::Read::read_exact(&mut said, &mut line).expect("it has begun");
    let found = host.openers(&[node(5), node(7)]);
    child.kill().expect("killed");
    child.wait().expect("gone");
    let found = found.expect("found");
    let of_child: Vec<_> = found.iter().filter(|o| o.id == child.id()).collect();
    assert_eq!(of_child.len(), 1, "{found:?}");
    assert_eq!(
        (of_child[0].node, of_child[0].program.as_str()),
        (node(7), "sh")
    );
    let block = Node {
        block: true,
        ..node(7)
    };
    // Not every user may look at all processes; then the answer is not known.
    let none = host.openers(&[block]).unwrap_or_else(|error| {
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        Vec::new()
    });
    assert_eq!(none, []);
}

#[test]
fn a_file_is_replaced_in_one_step_and_only_root_can_read_it() {
    let mut host = Dom0::new();
    let folder = place("folder");
    fs::create_dir_all(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("open to all");
    let file = folder.join("a.cfg");
    fs::write(folder.join("a.cfg.new"), "left by one that was killed").expect("written");
    let path = file.display().to_string();
    for text in ["one", "two"] {
        host.write(&path, text).expect("written");
        assert_eq!(host.read(&path).expect("read"), text);
    }
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    assert_eq!(host.tail(&path, 1, 1).expect("read"), "o");
    assert_eq!(host.tail(&path, 9, 9).expect("begun anew"), "two");
    assert_eq!(
        host.list(&folder.display().to_string()).expect("listed"),
        ["a.cfg"]
    );
    assert!(host.exists(&path).expect("looked") && host.link(&path).expect("no link").is_none());
    assert!(!host.is_taken("/dev/no-such-disk").expect("not there"));
    // A path through a file: only of a disk is it said whether it is taken.
    assert!(host.is_taken(&format!("{path}/disk")).is_err());
    assert!(host.exists(&format!("{path}/disk")).is_err());
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn whoever_comes_second_waits_knows_for_whom_and_not_without_end() {
    let path = place("lock");
    fs::write(&path, "").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("as it was once");
    let mut host = Dom0::new();
    let patience = Duration::from_secs(20);
    let first = lock(&mut host, &path, patience, "create", |_| {
        panic!("it is free")
    });
    let first = first.expect("locked");
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "who can open it can lock it");
    let late = lock(&mut host, &path, Duration::ZERO, "destroy a", |_| {});
    let text = format!("{:#}", late.expect_err("it is locked"));
    let pid = std::process::id();
    assert!(
        text.contains(&format!("`spindlectl create` (PID {pid})")),
        "{text}"
    );
    let (waits, holder) = channel();
    let second = std::thread::spawn({
        let path = path.clone();
        move || {
            let mut host = Dom0::new();
            let wait = |holder: &str| waits.send(holder.to_string()).expect("heard");
            lock(&mut host, &path, patience, "restart", wait).map(drop)
        }
    });
    assert!(holder.recv().expect("it waits").contains("create"));
    assert!(!second.is_finished());
    drop(first);
    second.join().expect("no panic").expect("locked");
    fs::remove_file(&path).expect("removed");
}

#[test]
fn what_a_killed_spindlectl_has_started_keeps_the_lock() {
    let path = place("orphan");
    let mut host = Dom0::new();
    let held = lock(&mut host, &path, Duration::ZERO, "create", |_| {}).expect("locked");
    host.hold(held);
    // Goes on after `sh` has ended, as `xl` does after a spindlectl that is killed.
    host.run(&shell("exec 3<&0; sleep 1 >/dev/null 2>&1 &"))
        .expect("it ran");
    drop(host);
    let mut host = Dom0::new();
    lock(&mut host, &path, Duration::ZERO, "destroy", |_| {}).expect_err("it still runs");
    lock(&mut host, &path, Duration::from_secs(10), "destroy", |_| {}).expect("it has ended");
    fs::remove_file(&path).expect("removed");
}

#[test]
fn time_passes_while_it_sleeps() {
    let mut host = Dom0::new();
    let before = host.now();
    host.sleep(Duration::from_millis(30));
    assert!(host.now() - before >= Duration::from_millis(30));
}
