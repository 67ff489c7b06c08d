//! The lives of a Spindle's kernel, which starts again in its own domain when it dies: which one it is
//! in, and how the last one ended, as the domain shows it in xenstore.

use std::time::Duration;

use spindle_status::lives::{DeathLine, StartLine};

use crate::store::Nodes;
use crate::tables;

/// Which life a kernel is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelLife {
    /// Its number: 1 for the first, 0 if the domain does not say.
    pub(crate) number: u64,
    /// How many of those before it ended by a death.
    pub(crate) deaths: u64,
    /// When it began, in seconds since 1970.
    pub(crate) began: Option<u64>,
    /// The same in nanoseconds of the system's time, which goes on from life to life.
    pub(crate) system: Option<u64>,
    /// The time from the end of the last one until it served.
    pub(crate) down: Option<Duration>,
    /// How the last one ended.
    pub(crate) last: Option<LastDeath>,
}

/// How a life ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LastDeath {
    /// What ended it: `panic`, `exception`, `hang`, `NMI`.
    pub(crate) cause: String,
    /// The core that died.
    pub(crate) core: Option<u32>,
    /// What the kernel said.
    pub(crate) message: String,
}

impl KernelLife {
    /// Reads the nodes below `data/spindle`.
    pub(crate) fn read(own: &Nodes) -> Self {
        let text = |key: &str| own.get(key).map_or("", String::as_str);
        let number = text("life").parse().unwrap_or(0);
        let start = StartLine::parse(text("start"));
        let deaths = start.deaths;
        let known = |value: u64| Some(value).filter(|&value| value > 0);
        Self {
            number,
            deaths,
            began: known(start.at),
            system: known(start.system_ns),
            down: known(start.down_us).map(Duration::from_micros),
            last: (deaths > 0).then(|| LastDeath::parse(text("death"))),
        }
    }

    /// What there is to say of the deaths of domain `name`, `now` seconds after 1970; `None` without any.
    pub(crate) fn story(&self, name: &str, now: u64) -> Option<String> {
        let last = self.last.as_ref()?;
        let times = match self.deaths {
            1 => "once".to_string(),
            2 => "twice, the last time".to_string(),
            n => format!("{n} times, the last time"),
        };
        let ago = self.began.and_then(|began| now.checked_sub(began));
        let ago = ago.map(|ago| format!(" {} ago,", span(ago)));
        let down = self.down.map(|down| {
            format!(
                "; it served again after {}",
                tables::time(Some(down.as_secs_f64()))
            )
        });
        let (ago, down) = (ago.unwrap_or_default(), down.unwrap_or_default());
        Some(format!(
            "{} has died {times}{ago} by {last}{down}",
            tables::text(name)
        ))
    }
}

impl LastDeath {
    /// Reads `CAUSE core=N MESSAGE`.
    fn parse(text: &str) -> Self {
        let DeathLine {
            cause,
            core,
            message,
        } = DeathLine::parse(text);
        Self {
            cause,
            core,
            message,
        }
    }
}

/// As a terminal may see it: `panic on core 1 (PANIC on core 1: ...)`.
impl std::fmt::Display for LastDeath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&tables::text(&self.cause))?;
        if let Some(core) = self.core {
            write!(f, " on core {core}")?;
        }
        match self.message.as_str() {
            "" => Ok(()),
            message => write!(f, " ({})", tables::text(message)),
        }
    }
}

/// A time in the largest unit that it has two of.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(nodes: &[(&str, &str)]) -> KernelLife {
        let nodes = nodes
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()));
        KernelLife::read(&nodes.collect())
    }

    #[test]
    fn a_first_life_and_one_that_nothing_is_known_of_have_no_story() {
        let first = life(&[
            ("life", "1"),
            ("start", "at=1000 down_us=0 deaths=0"),
            ("death", "old"),
        ]);
        assert_eq!(
            (first.number, first.began, first.down),
            (1, Some(1000), None)
        );
        assert_eq!((first.deaths, first.story("spindle", 2000)), (0, None));
        for odd in ["", "x", "-1", "18446744073709551616"] {
            let odd = life(&[("life", odd), ("start", "at=x down_us")]);
            assert_eq!(odd, KernelLife::default());
            assert_eq!((odd.deaths, odd.story("spindle", 0)), (0, None));
        }
    }

    #[test]
    fn a_later_life_tells_how_often_it_died_when_and_of_what() {
        let death = ("death", "panic core=1 PANIC on core 1: a drill");
        let story = |deaths: u64, now| {
            let start = format!("at=1000 down_us=310000 deaths={deaths}");
            life(&[("life", "9"), ("start", &start), death]).story("spindle", now)
        };
        assert_eq!(
            story(1, 1005).expect("one"),
            "spindle has died once 5 s ago, by panic on core 1 (PANIC on core 1: a drill); it served \
             again after 310 ms"
        );
        let later = story(3, 1000 + 7_200).expect("three");
        assert!(
            later.starts_with("spindle has died 3 times, the last time 2 h ago, by panic"),
            "{later}"
        );
        // A clock that was set back.
        let before = story(2, 999).expect("two");
        assert!(
            before.starts_with("spindle has died twice, the last time by panic"),
            "{before}"
        );
        let bare = life(&[("life", "2"), ("start", "deaths=1")]);
        assert_eq!(
            bare.story("a\x1b", 5).expect("one"),
            "a? has died once by unknown cause"
        );
    }

    #[test]
    fn what_a_death_shows_is_read_whatever_it_is() {
        let parse = |text: &str| LastDeath::parse(text).to_string();
        assert_eq!(parse("unknown cause core=3 "), "unknown cause on core 3");
        assert_eq!(parse("hang core=x y"), "hang (y)");
        assert_eq!(parse("nonsense\x07"), "nonsense?");
        assert_eq!(parse(" core= "), "");
    }

    #[test]
    fn spans_have_the_unit_that_fits() {
        for (seconds, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7_199, "119 min"),
            (7_200, "2 h"),
            (172_799, "47 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
