//! The program itself, from its arguments to what it prints and its status, with xenstore and xl played by
//! scripts over a file that lists xenstore's nodes as `xenstore-ls -f` does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The nodes of a Spindle of another version that serves one disk to one guest.
const NODES: &str = r#"/local/domain/0/name = "Domain-0"
/local/domain/3/name = "spindle"
/local/domain/3/libxl = ""
/local/domain/3/vm = "/vm/u"
/local/domain/3/data/spindle/ready = "1"
/local/domain/3/data/spindle/version = "0.0.9 abcdef"
/local/domain/3/data/spindle/disks = "nvme0n1 4194304 512 w A disk"
/local/domain/3/data/spindle/targets/nvme0n1 = "nvme0n1 4194304 512 w 5/51712:w nvme-x"
/local/domain/3/data/spindle/stat/5-51712 = "rings=2 rd_req=100 wr_req=7 f_req=2 rd_sect=800 wr_sect=56 err=0 lat_us=32:99,64:8"
/local/domain/3/data/spindle/core/1 = "busy_ns=2000000000 idle_ns=8000000000 sleeps=4"
/local/domain/3/backend/vbd/5/51712/state = "4"
/local/domain/3/backend/vbd/5/51712/dev = "xvda"
/local/domain/3/backend/vbd/5/51712/params = "nvme0n1"
/local/domain/3/backend/vbd/5/51712/mode = "w"
/local/domain/5/name = "web"
"#;

/// Which domains there are is asked first at each look; from the second look on it is the later file.
const LIST: &str = r#"[ -e later ] && [ -e looked ] && mv later nodes
touch looked
sed -n "s|^$1/\([^/]*\)/.*|\1|p" nodes | uniq"#;
const READ: &str = r#"value=$(grep -F "$1 = " nodes) || { echo "couldn't read path $1" >&2; exit 1; }
echo "$value" | sed 's/^[^"]*"//; s/"$//'"#;
const LS: &str = r#"grep -F "$2/" nodes && exit 0
echo "xenstore-ls: xs_directory ($2): No such file or directory" >&2; exit 1"#;

/// A machine with these nodes in xenstore, and later with those.
struct Machine(PathBuf);

impl Machine {
    /// None where Xen's own tools are: they would be run.
    fn new(name: &str, nodes: &str, later: Option<&str>) -> Option<Self> {
        if ["/usr/sbin/xl", "/usr/bin/xenstore-ls"]
            .map(Path::new)
            .iter()
            .any(|tool| tool.exists())
        {
            eprintln!("not tried: Xen's own tools are here");
            return None;
        }
        let folder = format!("spindlectl-program-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("nodes"), nodes).expect("written");
        if let Some(later) = later {
            fs::write(folder.join("later"), later).expect("written");
        }
        for (tool, script) in [
            ("xenstore-list", LIST),
            ("xenstore-read", READ),
            ("xenstore-ls", LS),
        ] {
            let path = folder.join(tool);
            let text = format!("#!/bin/sh\ncd {}\n{script}\n", folder.display());
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
        }
        Some(Self(folder))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spindlectl"));
        command.args(arguments).env("PATH", &self.0);
        command
    }

    fn run(&self, arguments: &[&str]) -> (bool, String, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(arguments).output().expect("it is run");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (status.success(), text(stdout), text(stderr))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The cells of the table's row with this word.
fn row(table: &str, word: &str) -> Vec<String> {
    let line = table
        .lines()
        .find(|line| line.contains(word))
        .unwrap_or_default();
    line.split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .map(str::to_string)
        .collect()
}

#[test]
fn what_runs_is_listed_and_another_version_is_named_beside_it() {
    let Some(machine) = Machine::new("list", NODES, None) else {
        return;
    };
    let (good, out, said) = machine.run(&["list"]);
    assert!(good, "{said}");
    let row = row(&out, "nvme0n1");
    assert_eq!(
        row[1..4],
        ["3", "serves (not made by spindlectl)", "nvme0n1"]
    );
    assert_eq!(row[4..8], ["2.0 GiB", "rw", "web xvda", "512"]);
    assert!(
        said.starts_with("+ note: spindle runs Spindle 0.0.9"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn counters_are_printed_for_people_and_for_prometheus() {
    let Some(machine) = Machine::new("stat", NODES, None) else {
        return;
    };
    let (good, out, _) = machine.run(&["stat"]);
    assert!(good);
    let disk = row(&out, "xvda");
    assert_eq!(disk[4..8], ["100", "7", "400 KiB", "28.0 KiB"]);
    assert_eq!(row(&out, "20.0 %")[..3], ["spindle", "1", "20.0 %"]);
    let (good, out, _) = machine.run(&["metrics"]);
    assert!(
        good && out.contains("spindle_up{domain=\"spindle\",version=\"0.0.9 abcdef\"} 1\n"),
        "{out}"
    );
}

#[test]
fn rates_are_those_between_two_looks_and_end_after_as_many_as_asked_for() {
    let later = NODES.replace("rd_req=100", "rd_req=600").replace(
        "busy_ns=2000000000 idle_ns=8000000000",
        "busy_ns=4000000000 idle_ns=11000000000",
    );
    let Some(machine) = Machine::new("top", NODES, Some(&later)) else {
        return;
    };
    let began = std::time::Instant::now();
    let (good, out, said) = machine.run(&["top", "--every", "1", "--count", "1"]);
    assert!(good, "{said}");
    assert!(began.elapsed().as_millis() >= 1000);
    // By the core's clock these are five seconds.
    assert_eq!(row(&out, "xvda")[4..6], ["100", "0"]);
    assert_eq!(out.matches("reads/s").count(), 1);
    assert!(!out.contains('\x1b'), "a file is no screen");
}

#[test]
fn without_news_it_is_waited_for_them_before_nothing_is_said_to_happen() {
    let Some(machine) = Machine::new("idle", NODES, None) else {
        return;
    };
    let began = std::time::Instant::now();
    let (good, out, _) = machine.run(&["top", "--every", "1", "--count", "1"]);
    assert!(good);
    assert_eq!(row(&out, "xvda")[4..6], ["0", "0"]);
    // Counters come every 5 s: what is 6 s old may be all there is.
    let waited = began.elapsed().as_secs_f64();
    assert!((6.0..60.0).contains(&waited), "{waited}");
}

#[test]
fn a_failure_is_said_and_is_the_status() {
    let none = "/local/domain/0/name = \"Domain-0\"\n";
    let Some(machine) = Machine::new("none", none, None) else {
        return;
    };
    let (good, out, said) = machine.run(&["list"]);
    assert!(!good && out.is_empty());
    assert!(said.starts_with("error: no Spindle runs\n  `"), "{said}");
    fs::remove_file(machine.0.join("xenstore-list")).expect("removed");
    let (good, _, said) = machine.run(&["stat"]);
    assert!(!good && said.contains("dom0"), "{said}");
    assert!(
        said.contains("xenstore-list") && said.contains("xen-utils"),
        "{said}"
    );
}

#[test]
fn programs_get_data_and_can_tell_failures_apart() {
    let Some(machine) = Machine::new("json", NODES, None) else {
        return;
    };
    for (arguments, path, value) in [
        (
            &["list", "--json"][..],
            "/domains/0/targets/0/name",
            "nvme0n1",
        ),
        (&["--json", "stat"], "/domains/0/devices/0/vdev", "xvda"),
        (&["why", "web", "--json"], "/device/target", "nvme0n1"),
        (
            &["top", "--every", "1", "--count", "1", "--json"],
            "/domains/0/name",
            "spindle",
        ),
    ] {
        let (good, out, said) = machine.run(arguments);
        let data: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        let found = data.pointer(path).and_then(serde_json::Value::as_str);
        assert!(good && found == Some(value), "{arguments:?}: {out} {said}");
    }
    for (arguments, status, words) in [
        (
            &["why", "web/xvdz"][..],
            3,
            "error: no Spindle has a disk web/xvdz for a guest\n  `",
        ),
        (
            &["rescan", "other"],
            3,
            "error: no Spindle named other runs\n  `spindlectl list`",
        ),
        (&["stat", "--nonsense"], 2, "unexpected argument"),
    ] {
        let output = machine.command(arguments).output().expect("it is run");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(words) && output.stdout.is_empty(), "{said}");
    }
}

#[test]
fn a_reader_that_goes_is_no_failure() {
    let Some(machine) = Machine::new("pipe", NODES, None) else {
        return;
    };
    let mut child = machine
        .command(&["metrics"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is run");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("error"), "{said}");
}
