//! The real machine's side, beyond programs and the lock: links and devices, signals that ask to stop,
//! and what cannot be looked at, which is never "not there".

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};

use crate::dom0::Dom0;
use crate::host::{Call, Host};
use crate::lock::lock;

/// A folder that goes with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("spindlectl-machine-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn links_lead_where_they_lead_and_files_nowhere() {
    let folder = Folder::new("links");
    let (file, link) = (folder.path("file"), folder.path("link"));
    fs::write(&file, "seven b").expect("written");
    symlink(&file, &link).expect("linked");
    let mut host = Dom0::new();
    assert_eq!(host.link(&link).expect("read").as_deref(), Some("file"));
    assert_eq!(host.link(&file).expect("looked at"), None);
    assert_eq!(host.link(&folder.path("none")).expect("looked at"), None);
    assert!(host.link(&format!("{file}/below")).is_err());
    let real = fs::canonicalize(&file)
        .expect("there")
        .display()
        .to_string();
    assert_eq!(host.real(&link).expect("followed"), real);
    assert_eq!(host.size(&file).expect("looked at"), 7);
    host.remove(&link).expect("removed");
    assert!(!host.exists(&link).expect("looked at") && host.exists(&file).expect("looked at"));
    let error = host.real(&link).expect_err("it is gone");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn the_end_of_a_log_is_what_came_since_and_all_of_a_log_that_began_anew() {
    let folder = Folder::new("log");
    let log = folder.path("log");
    fs::write(&log, "0123456789").expect("written");
    let mut host = Dom0::new();
    let mut tail = |from, most| host.tail(&log, from, most).expect("read");
    assert_eq!(tail(4, 100), "456789");
    assert_eq!(tail(4, 3), "789", "the last of it");
    assert_eq!(tail(10, 100), "", "nothing came");
    assert_eq!(tail(11, 100), "0123456789", "it was longer once");
}

#[test]
fn a_disk_that_is_mounted_is_taken_and_a_node_without_a_device_is_not() {
    let folder = Folder::new("taken");
    let mut host = Dom0::new();
    // Opening a socket fails as a node does whose device is gone: ENXIO (open(2)).
    let socket = folder.path("socket");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    assert!(!host.is_taken(&socket).expect("no device"));
    // Where tests run there may be no disk, or none that they may open.
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    let disks = mounts.lines().filter_map(|line| line.split(' ').next());
    for disk in disks.filter(|name| name.starts_with("/dev/")) {
        if fs::File::open(disk).is_ok() {
            assert!(host.is_taken(disk).expect("opened"), "{disk} is mounted");
        }
    }
}

#[test]
fn a_first_signal_lets_what_runs_end_and_a_second_kills_it() {
    let mut host = Dom0::new();
    host.catch_signals().expect("caught");
    assert!(!host.interrupted());
    let send = |times: u32| {
        thread::spawn(move || {
            for _ in 0..times {
                thread::sleep(Duration::from_millis(300));
                kill_process(getpid(), Signal::TERM).expect("sent");
            }
        })
    };
    let once = send(1);
    let ran = host.run(&Call::look("sh", ["-c", "sleep 1; echo ended"]));
    assert_eq!(ran.expect("it ends"), "ended\n");
    once.join().expect("sent");
    assert!(host.interrupted() && host.interrupted(), "it is remembered");
    // One more is the second.
    let began = Instant::now();
    let again = send(1);
    let killed = host.run(&Call::look("sleep", ["30"]));
    again.join().expect("sent");
    let text = killed.expect_err("killed").to_string();
    assert!(text.contains("when you asked again"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn of_a_spindlectl_that_has_gone_it_is_said_that_what_it_began_still_works() {
    let folder = Folder::new("gone");
    let path = folder.0.join("lock");
    // Numbers of processes are below 2^22 (proc(5)).
    fs::write(&path, "4000000000 create").expect("written");
    let held = fs::File::open(&path).expect("opened");
    held.lock().expect("locked");
    let mut host = Dom0::new();
    let late = lock(&mut host, &path, Duration::ZERO, "destroy a", |_| {});
    let text = format!("{:#}", late.expect_err("it is locked"));
    let words = "what `spindlectl create` (PID 4000000000, gone) has started";
    assert!(text.contains(words), "{text}");
    // A note that is none names no one.
    fs::write(&path, "nonsense here").expect("written");
    let late = lock(&mut host, &path, Duration::ZERO, "destroy a", |_| {});
    let text = format!("{:#}", late.expect_err("it is locked"));
    assert!(text.starts_with("another program"), "{text}");
}
