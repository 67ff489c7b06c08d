//! Xenstore, through its command-line tools: they come with every dom0 and follow its xenstored,
//! whichever that is.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::host::{Call, Host};

/// Nodes by path.
pub(crate) type Nodes = BTreeMap<String, String>;

/// Where the domains are.
pub(crate) const DOMAINS: &str = "/local/domain";

/// A domain's home.
pub(crate) fn home(id: u32) -> String {
    format!("{DOMAINS}/{id}")
}

/// The value of a node; `None` without one.
pub(crate) fn read(host: &mut impl Host, path: &str) -> Option<String> {
    let text = host.run(&Call::new("xenstore-read", [path])).ok()?;
    Some(unescape(text.strip_suffix('\n').unwrap_or(&text)))
}

/// All nodes from `path` on; none if it is not there.
pub(crate) fn tree(host: &mut impl Host, path: &str) -> Nodes {
    let text = host.run(&Call::new("xenstore-ls", ["-f", path]));
    parse(&text.unwrap_or_default())
}

/// The domains there are.
///
/// # Errors
/// If xenstore does not answer.
pub(crate) fn domain_ids(host: &mut impl Host) -> Result<Vec<u32>> {
    let text = host.run(&Call::new("xenstore-list", [DOMAINS]));
    let text = text.with_context(|| match host.user() {
        0 => "xenstore does not answer; is this dom0, and does xenstored run?",
        _ => "xenstore does not answer; this needs root: run it with sudo, in dom0",
    })?;
    let mut ids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Writes a node.
///
/// # Errors
/// If xenstore refuses.
pub(crate) fn write(host: &mut impl Host, path: &str, value: &str) -> Result<()> {
    host.run(&write_call(path, value)).map(drop)
}

/// The call that writes a node.
pub(crate) fn write_call(path: &str, value: &str) -> Call {
    Call::new("xenstore-write", [path, value])
}

/// Removes a node and all below it.
///
/// # Errors
/// If xenstore refuses.
pub(crate) fn remove(host: &mut impl Host, path: &str) -> Result<()> {
    host.run(&Call::new("xenstore-rm", [path])).map(drop)
}

/// Reads what `xenstore-ls -f` prints: lines of `path = "value"`.
fn parse(text: &str) -> Nodes {
    let node = |line: &str| {
        let (path, value) = line.split_once(" = \"")?;
        Some((path.to_string(), unescape(value.strip_suffix('"')?)))
    };
    text.lines().filter_map(node).collect()
}

/// The tools show bytes that are not printable ASCII as `\n`, `\t`, `\r` or in octal, and the
/// backslash twice.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'n') => bytes.push(b'\n'),
            Some(b't') => bytes.push(b'\t'),
            Some(b'r') => bytes.push(b'\r'),
            Some(digit @ b'0'..=b'7') => {
                let mut value = u32::from(digit - b'0');
                for _ in 0..2 {
                    let Some(digit) = rest.next_if(|b| (b'0'..=b'7').contains(b)) else {
                        break;
                    };
                    value = value * 8 + u32::from(digit - b'0');
                }
                bytes.push((value & 0xff) as u8);
            }
            Some(other) => bytes.push(other),
            None => bytes.push(b'\\'),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Failure, Fake};

    #[test]
    fn whoever_may_not_ask_xenstore_is_told_so() {
        let mut host = Fake::with_nvme("nvme");
        for (is_root, word) in [(true, "xenstored run"), (false, "sudo")] {
            host.is_root = is_root;
            host.fail(0, Failure::Before);
            host.calls.clear();
            let text = domain_ids(&mut host).expect_err("no answer").to_string();
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn what_the_tools_escape_is_read_as_it_was_written() {
        assert_eq!(unescape(r"a\nb\t\\c"), "a\nb\t\\c");
        assert_eq!(unescape(r"\303\251 \0017 \1x\"), "é \x017 \x01x\\");
    }

    #[test]
    fn lines_become_nodes_with_quotes_inside_values() {
        let text = "/a = \"\"\n/a/b = \"x \"y\" = \"z\"\"\nno node\n/c = \"1\\n2\"\n";
        let nodes = parse(text);
        let expected = [("/a", ""), ("/a/b", "x \"y\" = \"z\""), ("/c", "1\n2")];
        let expected = expected.map(|(path, value)| (path.to_string(), value.to_string()));
        assert_eq!(nodes, Nodes::from(expected));
    }
}
