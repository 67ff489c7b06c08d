//! `crash`: has a Spindle's kernel die, to see that it starts again in its own domain and that guests
//! notice no more than a pause.
//!
//! The order is a node in xenstore that the kernel reads and clears, if its option `drill` allows it.
//! The next life shows its number last of all that it has to say of itself.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use spindle_status::path;

use crate::fault::FaultKind;
use crate::host::Host;
use crate::spindle::Spindle;
use crate::store;
use crate::tables;

/// How often the next life is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// The most cores that an order can name, as many as Xen has a clock for.
pub(crate) const CORES: i64 = 32;

/// What a kernel can be made to die of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum How {
    /// A check of its own fails.
    Panic,
    /// The processor raises an exception.
    Exception,
    /// A core does not turn any more, which another one notices after 20 s.
    Hang,
    /// Memory is asked for that is not there.
    Heap,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Panic => "panic",
            Self::Exception => "exception",
            Self::Hang => "hang",
            Self::Heap => "heap",
        })
    }
}

/// An order to die.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crash<'a> {
    /// The domain's name.
    pub(crate) name: &'a str,
    /// What to die of.
    pub(crate) how: How,
    /// On which core.
    pub(crate) core: u32,
    /// How long the next life is waited for.
    pub(crate) patience: Duration,
}

/// Has a kernel die, and waits until its next life serves; gives what there is to say of that.
///
/// # Errors
/// If there is no such Spindle, if it does not take such orders, or has no such core, if no next life
/// shows itself in time, or if xenstore does not answer.
pub(crate) fn crash(host: &mut impl Host, order: &Crash<'_>) -> Result<String> {
    let name = order.name;
    let spindle = find(host, name)?;
    check(host, &spindle, order)?;
    let home = store::home(spindle.id);
    let node = format!("{home}/{}", path::CRASH);
    let began = host.now();
    let deadline = began.saturating_add(order.patience);
    store::write(host, &node, &format!("{} {}", order.how, order.core))
        .with_context(|| format!("cannot ask {name}"))?;
    let life = format!("{home}/{}", path::LIFE);
    loop {
        let number = store::read(host, &life)?;
        if number.is_some_and(|number| number.parse::<u64>().is_ok_and(|n| n > spindle.life.number))
        {
            break;
        }
        if store::read(host, &format!("{home}/name"))?.is_none() {
            bail!(
                "domain {name} has ended: its console says why. After too many deaths within a minute \
                 the domain ends rather than start again; `spindlectl restart {name}` replaces it"
            );
        }
        ensure!(
            !host.interrupted(),
            "interrupted before {name} served again"
        );
        if host.now() >= deadline {
            return Err(FaultKind::Late.error(silence(host, order, &node)?));
        }
        host.sleep(LOOK);
    }
    let took = host.now().saturating_sub(began);
    let now = Spindle::read(host, spindle.id)?.with_context(|| format!("{name} has ended"))?;
    let own = now.life.down.map(|down| {
        let down = tables::time(Some(down.as_secs_f64()));
        format!(", {down} after its death by its own clock")
    });
    let last = now.life.last.unwrap_or_default();
    Ok(format!(
        "{name} serves again {} after it was asked to die{}, in life {}\nlife {} ended by {last}",
        tables::time(Some(took.as_secs_f64())),
        own.unwrap_or_default(),
        now.life.number,
        now.life.number.saturating_sub(1)
    ))
}

/// The Spindle of this name.
fn find(host: &mut impl Host, name: &str) -> Result<Spindle> {
    let all = Spindle::all(host)?;
    if let Some(spindle) = all.into_iter().find(|spindle| spindle.name == name) {
        return Ok(spindle);
    }
    for id in store::domain_ids(host)? {
        let other = store::read(host, &format!("{}/name", store::home(id)))?;
        if other.as_deref() == Some(name) {
            return Err(FaultKind::Absent.error(format!(
                "domain {id}, {name}, is no Spindle\n`spindlectl list` shows those that run"
            )));
        }
    }
    Err(FaultKind::Absent.error(format!(
        "no Spindle named {name} runs\n`spindlectl list` shows those that do"
    )))
}

/// Whether it will do as it is asked to.
fn check(host: &mut impl Host, spindle: &Spindle, order: &Crash<'_>) -> Result<()> {
    let name = order.name;
    ensure!(
        spindle.readable,
        "what {name} shows in xenstore cannot be read"
    );
    ensure!(
        spindle.ready,
        "{name} does not serve yet: wait until `spindlectl list` says that it does"
    );
    ensure!(
        spindle.drill,
        "{name} does not take such orders: its option drill is off\nit is set when the domain is \
         created: `spindlectl create --set drill=on ...`; with xl, by `xenstore-write \
         {}/{} drill=on` between `xl create -p` and `xl unpause`",
        store::home(spindle.id),
        path::CONFIG
    );
    let cpus = format!("{}/cpu/", store::home(spindle.id));
    let nodes = store::tree(host, cpus.trim_end_matches('/'))?;
    let numbers = nodes.keys().filter_map(|path| {
        let number = path.strip_prefix(&cpus)?.split('/').next()?;
        number.parse::<u32>().ok()
    });
    // Nothing is known of them where libxl has not noted them.
    let Some(last) = numbers.max() else {
        return Ok(());
    };
    ensure!(
        order.core <= last,
        "{name} has no core {}: its cores are 0 to {last}",
        order.core
    );
    ensure!(
        order.how != How::Hang || last > 0,
        "{name} has one core, whose hang no other would notice; try --how panic"
    );
    Ok(())
}

/// Why no next life may have shown itself.
fn silence(host: &mut impl Host, order: &Crash<'_>, node: &str) -> Result<String> {
    let Crash {
        name,
        core,
        patience,
        ..
    } = order;
    let taken = store::read(host, node)?.is_none_or(|text| text.is_empty());
    let what = if taken {
        format!(
            "has taken the order, but core {core} has not died, or the next life does not serve"
        )
    } else {
        "has not taken the order: its control core may hang".to_string()
    };
    let seconds = patience.as_secs();
    Ok(format!(
        "no next life of {name} within {seconds} s: it {what}\n`xl console -t pv {name}` shows more"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    const ORDER: Crash<'static> = Crash {
        name: "spindle",
        how: How::Panic,
        core: 0,
        patience: Duration::from_secs(60),
    };

    fn refused(host: &mut Fake, order: &Crash<'_>) -> String {
        let text = crash(host, order).expect_err("refused").to_string();
        assert!(!host.made("xenstore-write"), "{text}");
        text
    }

    #[test]
    fn a_death_is_ordered_and_the_next_life_tells_of_it() {
        let mut host = Fake::serving();
        for life in [2, 3] {
            let order = Crash {
                how: How::Exception,
                core: 1,
                ..ORDER
            };
            let said = crash(&mut host, &order).expect("a next life");
            let expected = format!(
                "spindle serves again 350 ms after it was asked to die, 310 ms after its death by its own \
                 clock, in life {life}\nlife {} ended by exception on core 1 (a drill)",
                life - 1
            );
            assert_eq!(said, expected);
        }
        assert!(host.made("xenstore-write /local/domain/3/data/spindle/crash 'exception 1'"));
    }

    #[test]
    fn what_would_do_nothing_is_refused_with_the_next_step() {
        let mut host = Fake::serving();
        let other = Crash {
            name: "other",
            ..ORDER
        };
        assert!(refused(&mut host, &other).starts_with("no Spindle named other runs"));
        let guest = Crash {
            name: "web",
            ..ORDER
        };
        assert!(refused(&mut host, &guest).starts_with("domain 5, web, is no Spindle"));
        let core = Crash { core: 2, ..ORDER };
        assert_eq!(
            refused(&mut host, &core),
            "spindle has no core 2: its cores are 0 to 1"
        );
        host.store("/local/domain/3/data/spindle/drill", "off");
        let text = refused(&mut host, &ORDER);
        assert!(
            text.contains("--set drill=on") && text.contains("3/data/spindle/config"),
            "{text}"
        );
        host.state
            .store
            .remove("/local/domain/3/data/spindle/drill");
        assert!(refused(&mut host, &ORDER).contains("drill is off"));
        host.store("/local/domain/3/data/spindle/ready", "0");
        assert!(refused(&mut host, &ORDER).contains("does not serve yet"));
    }

    #[test]
    fn the_only_core_is_not_made_to_hang_and_unknown_cores_are_left_to_the_kernel() {
        let mut host = Fake::serving();
        let hang = Crash {
            how: How::Hang,
            ..ORDER
        };
        host.state
            .store
            .remove("/local/domain/3/cpu/1/availability");
        assert!(refused(&mut host, &hang).contains("one core"));
        host.state
            .store
            .remove("/local/domain/3/cpu/0/availability");
        crash(&mut host, &hang).expect("a next life");
    }

    #[test]
    fn a_life_that_does_not_come_is_not_waited_for_without_end() {
        let mut host = Fake::serving();
        host.deaf = true;
        let before = host.now();
        let text = crash(&mut host, &ORDER)
            .expect_err("nothing comes")
            .to_string();
        assert!(
            text.contains("within 60 s") && text.contains("has not taken"),
            "{text}"
        );
        let took = host.now() - before;
        assert!(
            (ORDER.patience..2 * ORDER.patience).contains(&took),
            "{took:?}"
        );
        host.store_later(
            Duration::from_secs(1),
            "/local/domain/3/data/spindle/crash",
            "",
        );
        let text = crash(&mut host, &ORDER)
            .expect_err("nothing comes")
            .to_string();
        assert!(text.contains("has taken the order, but core 0"), "{text}");
        host.remove_later(Duration::from_secs(1), "/local/domain/3/name");
        let text = crash(&mut host, &ORDER).expect_err("it ends").to_string();
        assert!(text.contains("spindlectl restart spindle"), "{text}");
        host = Fake::serving();
        host.interrupt = Some(0);
        let text = crash(&mut host, &ORDER).expect_err("Ctrl-C").to_string();
        assert!(text.contains("interrupted"), "{text}");
    }
}
