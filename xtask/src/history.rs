//! How often scenarios needed a second try, and how often since the emulator had ended a guest: a file
//! of the last runs of each, which every task that runs scenarios keeps up, and the limits beyond which
//! such a task fails.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::rig::{Mark, Suite, is_emulator};
use crate::root;

/// So many runs of a scenario on a suite are kept and counted.
const WINDOW: usize = 50;

/// Of a hundred runs, the most that may need a second try.
const LIMIT_PERCENT: usize = 1;

/// The same for those that needed it only since the emulator had ended a guest. It does so by chance; a
/// scenario that needs it each other time has another cause.
const ENDED_PERCENT: usize = 50;

/// The record of the last runs.
pub(crate) struct History {
    path: PathBuf,
    /// The version of the sources.
    commit: String,
    runs: Vec<Mark>,
}

/// How many of the last runs of a scenario on a suite needed a second try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    second: usize,
    /// Those that needed another one since the emulator had ended a guest.
    ended: usize,
    runs: usize,
}

impl History {
    /// Opens the record; one that is not there is empty. The caller holds the rig's lock.
    ///
    /// # Errors
    /// It cannot be read, or something else is in it.
    pub(crate) fn open() -> Result<Self> {
        let sh = Shell::new()?;
        sh.change_dir(root());
        let commit = cmd!(sh, "git describe --always --dirty --abbrev=10");
        let commit = commit.quiet().ignore_stderr().read().unwrap_or_default();
        Self::at(&root().join("target/rig/history.txt"), &commit)
    }

    fn at(path: &Path, commit: &str) -> Result<Self> {
        let text = if path.exists() {
            fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?
        } else {
            String::new()
        };
        let mut runs = Vec::new();
        for (number, line) in text.lines().enumerate() {
            match Mark::parse(line) {
                Some(mark) if mark.name == "run" && tries(&mark).is_some() => runs.push(mark),
                _ => bail!(
                    "{}:{}: not a run; remove the file to begin a new history",
                    path.display(),
                    number + 1
                ),
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            commit: commit.to_string(),
            runs,
        })
    }

    /// Adds a run and the reasons of its second tries, and writes the record.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn add(
        &mut self,
        suite: Suite,
        scenario: &str,
        passed: bool,
        retries: &[String],
    ) -> Result<Rate> {
        let ended = retries.iter().filter(|why| is_emulator(why)).count();
        let why = retries.join("; ").replace(['"', '\r', '\n'], "'");
        self.runs.push(
            Mark::new("run")
                .with("suite", suite.name())
                .with("scenario", scenario)
                .with("commit", &self.commit)
                .with("result", if passed { "passed" } else { "failed" })
                .with("tries", retries.len() - ended)
                .with("ended", ended)
                .with("why", why),
        );
        let same = |run: &Mark| (run.get("suite"), run.get("scenario")) == (suite.name(), scenario);
        let number = self.runs.iter().filter(|run| same(run)).count();
        let mut old = number.saturating_sub(WINDOW);
        self.runs.retain(|run| {
            let stays = old == 0 || !same(run);
            old -= usize::from(!stays);
            stays
        });
        let text: String = self.runs.iter().map(|run| format!("{run}\n")).collect();
        // Under its name only when it is whole.
        let new = self.path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &self.path))
            .with_context(|| format!("write {}", self.path.display()))?;
        let have = |key: &str| {
            let has = |run: &&Mark| same(run) && run.number(key).is_some_and(|times| times > 0.0);
            self.runs.iter().filter(has).count()
        };
        Ok(Rate {
            second: have("tries"),
            ended: have("ended"),
            runs: number.min(WINDOW),
        })
    }
}

/// How often something was tried again in a run.
fn tries(run: &Mark) -> Option<usize> {
    run.get("tries").parse().ok()
}

impl Rate {
    /// A second try in so many of so many runs, and as many since the emulator had ended a guest.
    #[cfg(test)]
    pub(crate) fn new(second: usize, ended: usize, runs: usize) -> Self {
        Self {
            second,
            ended,
            runs,
        }
    }

    /// What is wrong after a run that has tried something again for these reasons, if such runs are too
    /// many. Of few runs a rate says little: there, one is let pass, and two that the emulator is to
    /// blame for.
    pub(crate) fn complaint(
        self,
        suite: Suite,
        scenario: &str,
        retries: &[String],
    ) -> Option<String> {
        let Self {
            second,
            ended,
            runs,
        } = self;
        let by_emulator = retries.iter().any(|why| is_emulator(why));
        let by_other = retries.iter().any(|why| !is_emulator(why));
        let full = runs == WINDOW;
        let what = if by_other && second * 100 > runs * LIMIT_PERCENT && (second > 1 || full) {
            format!(
                "{second} of the last {runs} runs needed a second try; \
                 the limit is {LIMIT_PERCENT} % of {WINDOW}, or one in fewer runs"
            )
        } else if by_emulator && ended * 100 > runs * ENDED_PERCENT && (ended > 2 || full) {
            format!(
                "the emulator ended guests in {ended} of the last {runs} runs; the limit is \
                 {ENDED_PERCENT} %, or two in few runs"
            )
        } else {
            return None;
        };
        Some(format!("{scenario} on {}: {what}", suite.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHY: &str = "guest \"a\"\r\ndied";
    const ENDED: &str = "emulator: triple fault of guest a (d7v0); no end";

    /// Adds runs with so many second tries to a new history, reopened each time; gives the rate
    /// after each, and the file.
    fn rates(name: &str, runs: impl IntoIterator<Item = usize>) -> (Vec<Rate>, String) {
        rates_for(name, WHY, runs)
    }

    /// The same with second tries for this reason.
    fn rates_for(
        name: &str,
        why: &str,
        runs: impl IntoIterator<Item = usize>,
    ) -> (Vec<Rate>, String) {
        let name = format!("spindle-history-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_file(&path);
        let mut rates = Vec::new();
        for tries in runs {
            let mut history = History::at(&path, "c0ffee").expect("a history");
            let why = vec![why.to_string(); tries];
            // What other scenarios and other suites need does not count.
            for (suite, scenario) in [
                (Suite::Trixie, "other"),
                (Suite::Bookworm, "hotplug"),
                (Suite::Trixie, "hotplug"),
            ] {
                let rate = history.add(suite, scenario, true, &why).expect("written");
                if (suite, scenario) == (Suite::Trixie, "hotplug") {
                    rates.push(rate);
                }
            }
        }
        let text = fs::read_to_string(&path).expect("a file");
        fs::remove_file(&path).expect("removed");
        (rates, text)
    }

    /// Whether a run that has tried something again for this reason fails at this rate.
    fn fails(rate: Rate, why: &str) -> bool {
        let complaint = rate.complaint(Suite::Trixie, "hotplug", &[why.to_string()]);
        complaint.is_some()
    }

    #[test]
    fn one_second_try_in_a_short_history_passes_and_two_do_not() {
        let (rates, text) = rates("short", [0, 1, 0, 1]);
        let expected =
            [(0, 1), (1, 2), (1, 3), (2, 4)].map(|(second, runs)| Rate::new(second, 0, runs));
        assert_eq!(rates, expected);
        let red: Vec<bool> = rates.iter().map(|rate| fails(*rate, WHY)).collect();
        assert_eq!(red, [false, false, false, true]);
        let last = text.lines().last().and_then(Mark::parse).expect("a run");
        assert_eq!(last.get("scenario"), "hotplug");
        assert_eq!(last.get("why"), "guest 'a'''died");
        assert_eq!(last.get("commit"), "c0ffee");
    }

    #[test]
    fn a_run_counts_once_however_often_it_tried_again() {
        let (rates, text) = rates("twice", [2, 0]);
        assert_eq!(rates[1], Rate::new(1, 0, 2));
        let first = text.lines().find_map(Mark::parse).expect("a run");
        assert_eq!(first.get("tries"), "2");
    }

    #[test]
    fn what_the_emulator_ended_is_counted_apart_and_has_a_limit_of_its_own() {
        let (rates, text) = rates_for("ended", ENDED, [1, 2, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(rates[1], Rate::new(0, 2, 2));
        let failing: Vec<bool> = rates.iter().map(|rate| fails(*rate, ENDED)).collect();
        assert_eq!(failing, [vec![false; 8], vec![true]].concat());
        // What fails then is only what the emulator has ended once more, not what another try mended.
        assert!(!fails(rates[8], WHY));
        let last = text.lines().last().and_then(Mark::parse).expect("a run");
        assert_eq!((last.get("tries"), last.get("ended")), ("0", "1"));
    }

    #[test]
    fn only_the_last_fifty_runs_count() {
        let runs = [1].into_iter().chain(vec![0; 49]).chain([0, 0, 1]);
        let (rates, text) = rates("window", runs);
        assert_eq!(rates[48], Rate::new(1, 0, 49));
        assert!(!fails(rates[48], WHY));
        // One in fifty is two percent.
        assert_eq!(rates[49], Rate::new(1, 0, 50));
        assert!(fails(rates[49], WHY));
        assert_eq!(rates[50], Rate::new(0, 0, 50));
        assert!(!fails(rates[51], WHY));
        assert!(fails(rates[52], WHY));
        assert_eq!(text.lines().count(), 3 * WINDOW);
    }

    #[test]
    fn a_file_that_is_no_history_is_refused() {
        let path = std::env::temp_dir().join(format!("spindle-no-history-{}", std::process::id()));
        fs::write(&path, "run scenario=x tries=0\nrubbish\n").expect("written");
        let error = History::at(&path, "").err().expect("it is refused");
        fs::remove_file(&path).expect("removed");
        assert!(error.to_string().contains(":2: not a run"), "{error}");
    }
}
