//! `health` and `watch`: whether Spindles do their work, and what is done where one does not. The kernel
//! starts again by itself when it dies; what it cannot help is a control core that hangs alone, and a domain
//! that has ended.

use std::fs::File;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use spindle_status::path;

use crate::fault::FaultKind;
use crate::host::{Call, Host};
use crate::order;
use crate::spindle::{self, Spindle};
use crate::tables::text;

/// An order that changes nothing and is answered at once, whatever the answer is: by the control core's
/// loop, over xenstore both ways.
const QUESTION: &str = "smart - 0 0";
/// Answers that are missed in a row before the kernel is made to start again.
const MISSED: u32 = 3;
/// How long after something was done in vain it is tried again.
const REST: Duration = Duration::from_secs(60);

/// How a Spindle is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It serves, and has answered within this time.
    Serves(Duration),
    /// It does not serve yet.
    Starts,
    /// It runs, and does not answer.
    Hangs,
    /// It was made by spindlectl, and has ended or shows nothing.
    Gone(&'static str),
}

impl Health {
    /// For people.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Serves(took) => format!("serves, answers within {} ms", took.as_millis()),
            Self::Starts => "does not serve yet".into(),
            Self::Hangs => "does not answer".into(),
            Self::Gone(how) => (*how).into(),
        }
    }

    /// For programs.
    fn word(&self) -> &'static str {
        match self {
            Self::Serves(_) => "serves",
            Self::Starts => "starts",
            Self::Hangs => "hangs",
            Self::Gone(_) => "gone",
        }
    }
}

/// Asks one.
///
/// # Errors
/// If xenstore does not answer.
fn ask(host: &mut impl Host, spindle: &Spindle, patience: Duration) -> Result<Health> {
    if let Some(how) = spindle.silent {
        return Ok(Health::Gone(how));
    }
    if !spindle.ready {
        return Ok(Health::Starts);
    }
    let before = host.now();
    let question = format!("{} {QUESTION}", before.as_nanos());
    let nodes = (path::INSPECT, path::INSPECTED);
    let answer = order::ask(host, spindle, nodes, &question, patience)?;
    Ok(match answer {
        Some(_) => Health::Serves(host.now().saturating_sub(before)),
        None => Health::Hangs,
    })
}

/// How all of them are, or the one of this name.
///
/// # Errors
/// If there is none, or if xenstore or xl does not answer.
pub(crate) fn health(
    host: &mut impl Host,
    name: Option<&str>,
    patience: Duration,
) -> Result<Vec<(String, Health)>> {
    let mut all = Spindle::all_made(host)?;
    if let Some(name) = name {
        let one = spindle::named(&all, name)?.clone();
        all = vec![one];
    }
    let asked = all.iter().map(|spindle| {
        let health = ask(host, spindle, patience)?;
        Ok((spindle.name.clone(), health))
    });
    asked.collect()
}

/// The same as lines.
pub(crate) fn lines(all: &[(String, Health)]) -> String {
    let line = |(name, health): &(String, Health)| format!("{}: {}", text(name), health.text());
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The same as JSON.
pub(crate) fn json(all: &[(String, Health)]) -> Value {
    let one = |(name, health): &(String, Health)| json!({ "name": name, "health": health.word() });
    all.iter().map(one).collect()
}

/// Whether all is well.
///
/// # Errors
/// If one does not serve.
pub(crate) fn verdict(all: &[(String, Health)]) -> Result<()> {
    let ill = |(_, health): &&(String, Health)| !matches!(health, Health::Serves(_));
    let Some((name, health)) = all.iter().find(ill) else {
        return Ok(());
    };
    let (name, how) = (text(name), health.text());
    Err(FaultKind::Down.error(format!("{name} {how}\n`spindlectl log {name}` may say why")))
}

/// Watches over the domain of this name until the user asks to stop: looks every so often, has a kernel that
/// hangs start again in place, and puts a new domain in the place of one that has ended. `program` is
/// spindlectl; `lock` gives what is held while it is asked.
///
/// # Errors
/// If there is no such domain to begin with.
pub(crate) fn watch(
    host: &mut impl Host,
    name: &str,
    (every, patience): (Duration, Duration),
    program: &str,
    lock: &mut dyn FnMut() -> Result<Option<File>>,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut look = |host: &mut _| {
        let _lock = lock()?;
        health(host, Some(name), patience)
    };
    let mut health = look(host);
    if let Err(error) = &health
        && FaultKind::of(error) == FaultKind::Absent
    {
        return health.map(|_| ());
    }
    let (mut missed, mut shown) = (0, String::new());
    let mut rested = Duration::ZERO;
    while !host.interrupted() {
        let now = match &health {
            Ok(all) => all.first().map(|(_, health)| health.clone()),
            Err(_) => None,
        };
        let what = match (&now, &health) {
            (Some(health), _) => health.text(),
            (None, Err(error)) => format!("cannot be looked at: {error:#}"),
            (None, Ok(_)) => "is gone".into(),
        };
        // Not the time that an answer took.
        let what = what.split(',').next().unwrap_or_default().to_string();
        if what != shown {
            say(&format!("{name} {what}"));
            shown = what;
        }
        missed = match now {
            Some(Health::Hangs) => missed + 1,
            _ => 0,
        };
        let cure = match now {
            // Another spindlectl may be about to make it.
            Some(Health::Gone(spindle::ENDED)) => {
                Some(Call::change(program, ["restart", "--unless-runs", name]))
            }
            // An NMI ends this life of the kernel, and guests notice a pause.
            Some(Health::Hangs) if missed >= MISSED => Some(Call::xl(["trigger", name, "nmi"])),
            _ => None,
        };
        if let Some(cure) = cure
            && host.now() >= rested
        {
            say(&format!("{cure}"));
            if let Err(error) = host.run(&cure) {
                say(&format!("{error}"));
            }
            (missed, rested) = (0, host.now().saturating_add(REST));
        }
        host.sleep(every);
        health = look(host);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::create::{Failing, create};
    use crate::fake::{Fake, wanted};
    use crate::plan::{Plan, Route};

    const TIMES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

    fn serving() -> Fake {
        let mut host = Fake::with_nvme("nvme");
        let plan = Plan::new(&mut host, &wanted(Route::Hvm), None).expect("a plan");
        create(&mut host, &plan, TIMES.1, Failing::Undo, &mut |_| {}).expect("created");
        host
    }

    /// The domain has ended by itself.
    fn end(host: &mut Fake) {
        host.state.domains.clear();
        let nodes = &mut host.state.store;
        nodes.retain(|path, _| !path.starts_with("/local/domain/3/"));
    }

    fn looked(host: &mut Fake) -> Vec<(String, Health)> {
        health(host, None, TIMES.1).expect("xenstore")
    }

    #[test]
    fn each_state_is_told_from_the_others() {
        let mut host = serving();
        let all = looked(&mut host);
        assert!(matches!(all[..], [(_, Health::Serves(_))]), "{all:?}");
        assert!(verdict(&all).is_ok());
        assert_eq!(json(&all)[0]["health"], "serves");
        host.deaf = true;
        let all = looked(&mut host);
        assert_eq!(lines(&all), "spindle: does not answer");
        let error = verdict(&all).expect_err("ill");
        assert_eq!(FaultKind::of(&error), FaultKind::Down);
        host.store("/local/domain/3/data/spindle/ready", "0");
        assert_eq!(looked(&mut host)[0].1, Health::Starts);
        let mut host = serving();
        end(&mut host);
        assert_eq!(looked(&mut host)[0].1, Health::Gone("has ended"));
        let error = health(&mut host, Some("other"), TIMES.1).expect_err("none");
        assert_eq!(FaultKind::of(&error), FaultKind::Absent);
    }

    /// What `watch` says and does within so long a time.
    fn watched(host: &mut Fake, seconds: u64) -> (Vec<String>, Vec<String>) {
        host.interrupt_at = Some(host.now() + Duration::from_secs(seconds));
        let (before, mut said) = (host.calls.len(), Vec::new());
        let mut say = |text: &str| said.push(text.to_string());
        watch(
            host,
            "spindle",
            TIMES,
            "spindlectl",
            &mut || Ok(None),
            &mut say,
        )
        .expect("watched");
        let calls = host.calls[before..].iter();
        let cures = calls.filter(|call| {
            ["xl trigger", "spindlectl"]
                .iter()
                .any(|it| call.text.starts_with(it))
        });
        (said, cures.map(|call| call.text.clone()).collect())
    }

    #[test]
    fn one_that_serves_is_left_alone() {
        let (said, cures) = watched(&mut serving(), 100);
        assert_eq!(said, ["spindle serves"]);
        assert_eq!(cures, [""; 0]);
    }

    #[test]
    fn one_that_hangs_starts_again_in_place_and_not_at_once() {
        let mut host = serving();
        host.deaf = true;
        let (said, cures) = watched(&mut host, 40);
        assert_eq!(said[0], "spindle does not answer");
        assert_eq!(cures, ["xl trigger spindle nmi"]);
        // In vain: again, but not each time.
        let (_, cures) = watched(&mut host, 200);
        assert!((2..=3).contains(&cures.len()), "{cures:?}");
    }

    #[test]
    fn one_that_has_ended_gets_another_in_its_place() {
        let mut host = serving();
        end(&mut host);
        let (said, cures) = watched(&mut host, 50);
        assert_eq!(said[0], "spindle has ended");
        assert_eq!(cures, ["spindlectl restart --unless-runs spindle"]);
    }

    #[test]
    fn one_that_nothing_is_known_of_is_not_watched() {
        let error = watch(
            &mut serving(),
            "other",
            TIMES,
            "spindlectl",
            &mut || Ok(None),
            &mut |_| {},
        );
        assert_eq!(FaultKind::of(&error.expect_err("none")), FaultKind::Absent);
    }
}
