//! Xenstore, through its command-line tools: they come with every dom0 and follow its xenstored,
//! whichever that is. "Not there" is an answer; that xenstore could not be asked is an error.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::host::{Call, Failed, Host};

/// Nodes by path.
pub(crate) type Nodes = BTreeMap<String, String>;

/// Where the domains are.
pub(crate) const DOMAINS: &str = "/local/domain";
/// How often what changes while it is read is read.
const TRIES: u32 = 3;

/// A domain's home.
pub(crate) fn home(id: u32) -> String {
    format!("{DOMAINS}/{id}")
}

/// The value of a node; `None` without one.
///
/// # Errors
/// If xenstore does not answer.
pub(crate) fn read(host: &mut impl Host, path: &str) -> Result<Option<String>> {
    let mut tries = 0;
    loop {
        let failed = match host.run(&Call::look("xenstore-read", [path])) {
            Ok(text) => return Ok(Some(unescape(text.strip_suffix('\n').unwrap_or(&text)))),
            Err(failed) => failed,
        };
        tries += 1;
        // xenstore-read says the same whatever the reason; xenstore-ls says what it is.
        match ls(host, path) {
            Err(error) if is_absent(&error, path) => return Ok(None),
            // It has come in between, as an answer that is waited for may.
            Ok(_) if tries < TRIES => {}
            _ => return Err(failed.into()),
        }
    }
}

/// All nodes below `path`, without itself; none if it is not there.
///
/// # Errors
/// If xenstore does not answer, or not with all of them.
pub(crate) fn tree(host: &mut impl Host, path: &str) -> Result<Nodes> {
    let mut last = None;
    for _ in 0..TRIES {
        match ls(host, path) {
            Err(error) if is_absent(&error, path) => return Ok(Nodes::new()),
            // A node that goes while xenstore-ls walks the tree makes older ones fail.
            Err(error) if error.said.contains(ABSENT) => last = Some(error.into()),
            Err(error) => return Err(error.into()),
            Ok(text) => match parse(&text, path) {
                Ok(nodes) => return Ok(nodes),
                Err(error) => last = Some(error),
            },
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("cannot read {path} in xenstore")))
}

/// How the C library says ENOENT.
const ABSENT: &str = "No such file or directory";

fn ls(host: &mut impl Host, path: &str) -> Result<String, Failed> {
    host.run(&Call::look("xenstore-ls", ["-f", path]))
}

/// Whether xenstore-ls failed because there is no `path` itself.
fn is_absent(failed: &Failed, path: &str) -> bool {
    let said = format!("({path}): {ABSENT}");
    failed.said.contains(&said)
}

/// The domains there are.
///
/// # Errors
/// If xenstore does not answer.
pub(crate) fn domain_ids(host: &mut impl Host) -> Result<Vec<u32>> {
    let text = host.run(&Call::look("xenstore-list", [DOMAINS]));
    let text = text.with_context(|| match host.user() {
        0 => "xenstore does not answer; is this dom0, and does xenstored run?",
        _ => "xenstore does not answer; this needs root: run it with sudo, in dom0",
    })?;
    let id = |line: &str| {
        let id = line.parse::<u32>();
        id.with_context(|| format!("xenstore lists \"{line}\" among the domains"))
    };
    let mut ids: Vec<u32> = text.lines().map(id).collect::<Result<_>>()?;
    ids.sort_unstable();
    Ok(ids)
}

/// Writes a node.
///
/// # Errors
/// If xenstore refuses.
pub(crate) fn write(host: &mut impl Host, path: &str, value: &str) -> Result<()> {
    host.run(&write_call(path, value))?;
    Ok(())
}

/// The call that writes a node.
pub(crate) fn write_call(path: &str, value: &str) -> Call {
    Call::change("xenstore-write", [path, value])
}

/// Removes a node and all below it. One that is not there is no failure.
///
/// # Errors
/// If it is still there, or if that cannot be found out.
pub(crate) fn remove(host: &mut impl Host, path: &str) -> Result<()> {
    // To look first would be one more answer that can be wrong.
    let Err(failed) = host.run(&Call::change("xenstore-rm", [path])) else {
        return Ok(());
    };
    match read(host, path) {
        Ok(None) => Ok(()),
        _ => Err(failed.into()),
    }
}

/// Reads what `xenstore-ls -f` prints: lines of `path = "value"`.
///
/// # Errors
/// If a line is anything else; `path:` is a node whose value could not be read.
fn parse(text: &str, under: &str) -> Result<Nodes> {
    let mut nodes = Nodes::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let node = line.split_once(" = \"").and_then(|(path, value)| {
            let inside = path.strip_prefix(under)?.starts_with('/');
            inside.then_some((path, value.strip_suffix('"')?))
        });
        let Some((path, value)) = node else {
            bail!("xenstore-ls -f {under} could not read a node: it printed \"{line}\"");
        };
        nodes.insert(path.to_string(), unescape(value));
    }
    Ok(nodes)
}

/// The tools show bytes that are not printable ASCII as `\n`, `\t`, `\r`, `\ooo` in octal below 8,
/// and `\xhh` else; the backslash twice.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes().peekable();
    let number = |rest: &mut std::iter::Peekable<std::str::Bytes<'_>>, base, most| {
        let mut value = 0;
        for _ in 0..most {
            let digit = rest
                .peek()
                .and_then(|&byte| char::from(byte).to_digit(base));
            let Some(digit) = digit else { break };
            rest.next();
            value = value * base + digit;
        }
        (value & 0xff) as u8
    };
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.peek() {
            Some(b'0'..=b'7') => bytes.push(number(&mut rest, 8, 3)),
            Some(b'x') => {
                rest.next();
                bytes.push(number(&mut rest, 16, 2));
            }
            Some(&other) => {
                rest.next();
                bytes.push(match other {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    other => other,
                });
            }
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
    fn not_there_is_told_from_could_not_look() {
        let mut host = Fake::with_nvme("nvme");
        host.store("/a/b", "1");
        assert_eq!(read(&mut host, "/a/b").expect("there"), Some("1".into()));
        assert_eq!(read(&mut host, "/a/c").expect("absent"), None);
        assert!(tree(&mut host, "/nosuch").expect("absent").is_empty());
        for path in ["/a/b", "/a/c"] {
            host.failures.clear();
            host.fail(0, Failure::Before);
            let there = (path == "/a/b").then(|| "1".to_string());
            let looked = read(&mut host, path).expect("as after a node that has just come");
            assert_eq!(looked, there);
            host.failures.clear();
            host.fail(0, Failure::Before);
            host.fail(1, Failure::Before);
            assert!(read(&mut host, path).is_err(), "{path}");
        }
        host.failures.clear();
        for call in [0, 2, 4] {
            host.fail(call, Failure::Before);
        }
        read(&mut host, "/a/b").expect_err("it is there, and cannot be read");
        host.failures.clear();
        host.fail(0, Failure::Before);
        assert!(tree(&mut host, "/a").is_err());
        host.failures.clear();
        host.fail(0, Failure::Before);
        remove(&mut host, "/a/b").expect_err("it is still there");
        host.failures.clear();
        host.fail(0, Failure::After);
        remove(&mut host, "/a/b").expect("it is gone");
    }

    #[test]
    fn what_the_tools_escape_is_read_as_it_was_written() {
        assert_eq!(unescape(r"a\nb\t\\c"), "a\nb\t\\c");
        assert_eq!(
            unescape(r"Donn\xc3\xa9es \x1b[2J \0017\x7f1"),
            "Données \x1b[2J \x017\x7f1"
        );
        assert_eq!(unescape(r"\\x41 \"), "\\x41 \\");
    }

    #[test]
    fn lines_become_nodes_with_quotes_inside_values() {
        let text = "/a/b = \"\"\n/a/b/c = \"x \"y\" = \"z\"\"\n\n/a/c = \"1\\n2\"\n";
        let nodes = parse(text, "/a").expect("nodes");
        let expected = [
            ("/a/b", ""),
            ("/a/b/c", "x \"y\" = \"z\""),
            ("/a/c", "1\n2"),
        ];
        let expected = expected.map(|(path, value)| (path.to_string(), value.to_string()));
        assert_eq!(nodes, Nodes::from(expected));
    }

    #[test]
    fn a_node_whose_value_could_not_be_read_is_no_missing_node() {
        for text in ["/a/b:\n\n", "nonsense", "/a/b = \"cut", "/elsewhere = \"\""] {
            assert!(parse(text, "/a").is_err(), "{text}");
        }
    }
}
