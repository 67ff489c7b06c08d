//! `log`: what a Spindle has printed to its console, where xenconsoled keeps that, and with `--follow` what
//! comes. The domain writes it: nothing of it reaches the terminal as a command, and no more of it is
//! read than is shown.

use std::time::Duration;

use anyhow::Result;

use crate::console;
use crate::fault::FaultKind;
use crate::host::Host;
use crate::record;
use crate::tables;

/// How often more is looked for.
const LOOK: Duration = Duration::from_millis(500);
/// The most that is read at once.
const MOST: u64 = 256 << 10;

/// The log of a domain.
pub(crate) struct ConsoleLog {
    path: String,
    /// Up to where it was shown.
    seen: u64,
    /// A line whose end has not come yet.
    open: String,
}

impl ConsoleLog {
    /// That of the domain `name`, which may have ended.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn find(host: &mut impl Host, name: &str) -> Result<Self> {
        // It becomes part of a path.
        if record::is_name(name) {
            for path in console::paths(name) {
                if let Ok(size) = host.size(&path) {
                    return Ok(Self {
                        path,
                        seen: size.saturating_sub(MOST),
                        open: String::new(),
                    });
                }
            }
        }
        Err(FaultKind::Absent.error(format!(
            "there is no log of a domain {}\nxenconsoled keeps logs with --log=guest (Debian: \
             XENCONSOLED_TRACE=guest in /etc/default/xen); `xl console -t pv NAME` shows what comes",
            tables::text(name)
        )))
    }

    /// The whole lines that have come since.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn news(&mut self, host: &mut impl Host) -> Result<Vec<String>> {
        let size = host.size(&self.path)?;
        if size == self.seen {
            return Ok(Vec::new());
        }
        if size < self.seen {
            // It was begun anew, without the end of that line.
            self.open.clear();
        }
        let text = host.tail(&self.path, self.seen, MOST)?;
        self.seen = size;
        let text = std::mem::take(&mut self.open) + &text;
        let (whole, open) = match text.rfind('\n') {
            Some(end) => text.split_at(end + 1),
            None => ("", text.as_str()),
        };
        // A line without an end is one all the same once it is as long as this.
        if open.len() as u64 > MOST {
            return Ok(vec![tables::text(open)]);
        }
        self.open = open.to_string();
        let lines = whole.lines().map(|line| tables::text(line.trim_end()));
        Ok(lines.collect())
    }
}

/// Prints the last `count` lines of a log, then what comes until the user asks to stop, if it is to be
/// followed.
///
/// # Errors
/// If there is no log, or if `print` fails.
pub(crate) fn log(
    host: &mut impl Host,
    name: &str,
    count: usize,
    follow: bool,
    print: &mut dyn FnMut(String) -> Result<()>,
) -> Result<()> {
    let mut log = ConsoleLog::find(host, name)?;
    let lines = log.news(host)?;
    let from = lines.len().saturating_sub(count);
    lines.into_iter().skip(from).try_for_each(&mut *print)?;
    while follow && !host.interrupted() {
        host.sleep(LOOK);
        log.news(host)?.into_iter().try_for_each(&mut *print)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    const LOG: &str = "/var/log/xen/guest-a.log";

    #[test]
    fn the_last_lines_are_printed_without_what_a_terminal_would_obey() {
        let mut host = Fake::with_nvme("nvme");
        host.put(LOG, "one\ntwo\x1b[2J\r\nthree\nopen");
        let mut lines = Vec::new();
        let mut print = |line| {
            lines.push(line);
            Ok(())
        };
        log(&mut host, "a", 2, false, &mut print).expect("a log");
        assert_eq!(lines, ["two?[2J", "three"]);
    }

    #[test]
    fn what_comes_is_followed_by_whole_lines_and_into_a_log_begun_anew() {
        let mut host = Fake::with_nvme("nvme");
        host.put(LOG, "one\n");
        let mut log = ConsoleLog::find(&mut host, "a").expect("a log");
        assert_eq!(log.news(&mut host).expect("read"), ["one"]);
        assert!(log.news(&mut host).expect("read").is_empty());
        host.put(LOG, "one\ntwo, and");
        assert!(log.news(&mut host).expect("read").is_empty());
        host.put(LOG, "one\ntwo, and more\n");
        assert_eq!(log.news(&mut host).expect("read"), ["two, and more"]);
        host.put(LOG, "one\ntwo, and more\nthree, an");
        assert!(log.news(&mut host).expect("read").is_empty());
        host.put(LOG, "anew\n");
        assert_eq!(log.news(&mut host).expect("read"), ["anew"]);
    }

    #[test]
    fn following_ends_when_the_user_asks_for_it() {
        let mut host = Fake::with_nvme("nvme");
        host.put(LOG, "one\n");
        host.interrupt = Some(6);
        let mut count = 0;
        let mut print = |_| {
            count += 1;
            Ok(())
        };
        log(&mut host, "a", 10, true, &mut print).expect("ended");
        assert_eq!(count, 1);
        assert!(host.calls.len() >= 6, "{:?}", host.calls);
    }

    #[test]
    fn a_name_that_is_none_and_a_log_that_is_not_there_are_absent() {
        let mut host = Fake::with_nvme("nvme");
        host.put("/var/log/xen/guest-../x.log", "secret\n");
        for name in ["b", "../x", ""] {
            let error = log(&mut host, name, 1, false, &mut |_| Ok(())).expect_err("none");
            assert_eq!(FaultKind::of(&error), FaultKind::Absent, "{name}");
        }
    }
}
