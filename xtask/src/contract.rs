//! The rig's scripts against the operator's contract: every node of Spindle's and every counter that a
//! script names is one that Spindle publishes or reads.

use std::fs;
use std::path::{Path, PathBuf};

use spindle_status::path::{NODES, ROOT};
use spindle_status::stats::{CoreSnapshot, RingSnapshot};

use crate::root;

/// All shell scripts below a folder.
fn scripts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            scripts(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "sh") {
            found.push(path);
        }
    }
}

fn is_node(leaf: &str) -> bool {
    let all = NODES.iter();
    all.filter_map(|node| node.path.strip_prefix(ROOT)?.strip_prefix('/'))
        .any(|known| known == leaf)
}

fn is_counter(name: &str) -> bool {
    let keys = RingSnapshot::KEYS.iter().chain(&CoreSnapshot::KEYS);
    name == "rings" || keys.map(|key| key.name).any(|known| known == name)
}

/// The lower-case letters and underlines that a text begins with.
fn name(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    &text[..end.unwrap_or(text.len())]
}

/// The counters that a line asks for: the last words of `counted GUEST VDEV KEY` and `core N KEY`, and
/// those of a pattern `^(KEY|KEY)=`.
fn counters(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (call, place) in [("$(counted $", 2), ("$(core $", 1)] {
        for rest in line.split(call).skip(1) {
            let word = rest.split([' ', ')']).nth(place).unwrap_or_default();
            found.extend(Some(name(word)).filter(|name| !name.is_empty()));
        }
    }
    for rest in line.split("'^(").skip(1) {
        if let Some((keys, _)) = rest.split_once(")='") {
            found.extend(keys.split('|'));
        }
    }
    found
}

#[test]
fn scripts_ask_for_what_is_published() {
    let mut files = Vec::new();
    scripts(&root().join("xtask/rig"), &mut files);
    let (mut nodes, mut asked) = (0, 0);
    for file in files {
        let text = fs::read_to_string(&file).expect("a script");
        for leaf in text.split("data/spindle/").skip(1).map(name) {
            assert!(is_node(leaf), "{}: data/spindle/{leaf}", file.display());
            nodes += 1;
        }
        for name in text.lines().flat_map(counters) {
            assert!(is_counter(name), "{}: {name}", file.display());
            asked += 1;
        }
    }
    assert!(nodes > 15 && asked > 6, "{nodes} nodes, {asked} counters");
}

#[test]
fn what_a_script_asks_for_is_found() {
    let line =
        "[ $(counted $wide xvda rings) = 4 ] || x \"$(counted $wide xvda err)\" $(core $n polls)";
    assert_eq!(counters(line), ["rings", "err", "polls"]);
    assert_eq!(
        counters("grep -E '^(rd_req|sleeps)=' |"),
        ["rd_req", "sleeps"]
    );
    assert!(counters("core() { counted $1 $2 $3; }").is_empty());
}
