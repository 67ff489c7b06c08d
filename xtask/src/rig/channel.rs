//! The line between the host and dom0: a serial port that carries marks and log files up,
//! and commands down.
//!
//! dom0 sends, each at the start of a line: `@@ name key=value ...` (a mark: something
//! happened), and `@log FILE BYTES` followed by that many bytes to append to a log.
//! Anything else is noise and kept in `channel.log`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

/// Something that dom0 says happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// What it is.
    pub(crate) name: String,
    fields: BTreeMap<String, String>,
}

impl Mark {
    /// Reads `name key=value key="a value"`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (name, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if name.is_empty() {
            return None;
        }
        let mut fields = BTreeMap::new();
        while let Some((key, value)) = rest.trim_start().split_once('=') {
            let (value, after) = match value.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => value.split_once(' ').unwrap_or((value, "")),
            };
            fields.insert(key.to_string(), value.to_string());
            rest = after;
        }
        Some(Self {
            name: name.to_string(),
            fields,
        })
    }

    /// A mark of the host's own.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_string(),
            fields: BTreeMap::new(),
        }
    }

    /// The same with one more field.
    pub(crate) fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.fields.insert(key.to_string(), value.to_string());
        self
    }

    /// The same under another name.
    pub(crate) fn renamed(mut self, name: &str) -> Self {
        self.name = name.to_string();
        self
    }

    /// The names of the fields.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// The value of a field, empty if there is none.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }

    /// The value of a field as a number.
    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        self.get(key).parse().ok()
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        for (key, value) in &self.fields {
            if value.is_empty() || value.contains(' ') {
                write!(f, " {key}=\"{value}\"")?;
            } else {
                write!(f, " {key}={value}")?;
            }
        }
        Ok(())
    }
}

/// Reads the channel until it ends: files the logs, passes the marks on.
pub(super) fn receive(from: impl Read, logs: &Path, marks: &Sender<Mark>) -> io::Result<()> {
    let mut from = BufReader::new(from);
    let mut noise = File::create(logs.join("channel.log"))?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if from.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        if let Some((name, length)) = text
            .strip_prefix("@log ")
            .and_then(|rest| rest.trim().split_once(' '))
        {
            let mut log = OpenOptions::new()
                .create(true)
                .append(true)
                .open(log_path(logs, name))?;
            io::copy(&mut (&mut from).take(length.parse().unwrap_or(0)), &mut log)?;
            continue;
        }
        noise.write_all(&line)?;
        if let Some(mark) = text.strip_prefix("@@ ").and_then(Mark::parse)
            && marks.send(mark).is_err()
        {
            return Ok(());
        }
    }
}

/// A log's place: only its last name counts, whatever dom0 says.
fn log_path(logs: &Path, name: &str) -> PathBuf {
    logs.join(
        Path::new(name)
            .file_name()
            .unwrap_or_else(|| "unnamed.log".as_ref()),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_mark_has_plain_and_quoted_fields() {
        let mark = Mark::parse("end name=file-tree rc=0 why=\"a b=c\" last=x\r\n").expect("a mark");
        assert_eq!(mark.name, "end");
        assert_eq!(mark.get("why"), "a b=c");
        assert_eq!(mark.get("last"), "x");
        assert_eq!(mark.number("rc"), Some(0.0));
        assert_eq!(mark.get("nosuch"), "");
        assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
    }

    #[test]
    fn log_bytes_are_filed_and_never_taken_for_marks() {
        let logs = std::env::temp_dir().join(format!("spindle-channel-{}", std::process::id()));
        std::fs::create_dir_all(&logs).expect("a folder");
        let (sender, marks) = mpsc::channel();
        let input = b"noise\n@log ../../guest.log 9\n@@ no a=1\nnoise @@ no\n@@ yes b=2\n";
        receive(&input[..], &logs, &sender).expect("the channel ends well");
        drop(sender);
        let names: Vec<String> = marks.iter().map(|mark| mark.name).collect();
        assert_eq!(names, ["yes"]);
        assert_eq!(
            std::fs::read(logs.join("guest.log")).expect("the log"),
            b"@@ no a=1"
        );
        std::fs::remove_dir_all(&logs).expect("removed");
    }
}
