//! `create`: goes through a plan, and takes everything back if a step fails.

use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};

use crate::domains::{self, Domain, Domains};
use crate::fault::FaultKind;
use crate::host::{Call, Host, noted};
use crate::plan::{self, Plan, PlanStep};
use crate::record::Record;
use crate::spindle::Spindle;
use crate::{assign, clean, console, store};

/// PCI's command register, and what it is set to: memory decoding and bus mastering on, the
/// interrupt line off (PCI 3.0, 6.2.2).
const COMMAND: u64 = 4;
const MEMORY_AND_BUS_MASTER: [u8; 2] = [0x06, 0x04];
/// How often to look whether it serves.
const LOOK: Duration = Duration::from_millis(100);

/// What becomes of a domain that fails, and of what was done for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failing {
    /// Everything is put back as it was.
    Undo,
    /// It is left as it is, to be looked at.
    Keep,
    /// The domain goes; what a restart needs stays, and the disk stays away from dom0's driver.
    Restart,
}

/// How far a plan has got.
#[derive(Default)]
struct CreateProgress {
    record: Option<Record>,
    domain: Option<Domain>,
    console: console::Marks,
}

/// Does what is planned, telling `say` of each step; gives the domain once it serves.
///
/// # Errors
/// If a step fails, or the user asks to stop. What then happens is for `failing` to say; the error
/// says what is left, and what to do.
pub(crate) fn create(
    host: &mut impl Host,
    plan: &Plan,
    patience: Duration,
    failing: Failing,
    say: &mut dyn FnMut(&str),
) -> Result<Spindle> {
    let name = &plan.record.name;
    let mut progress = CreateProgress::default();
    for step in &plan.steps {
        let done = if host.interrupted() {
            Err(anyhow!("interrupted"))
        } else {
            if !(failing == Failing::Restart && is_done(host, step)) {
                say(&step.shell(&plan.record));
            }
            perform(host, plan, step, &mut progress, patience)
        };
        let error = match done {
            Ok(Some(spindle)) => return Ok(spindle),
            Ok(None) => continue,
            Err(error) => error,
        };
        if failing == Failing::Keep {
            let note = format!("{name} is left as it is; `spindlectl destroy {name}` cleans up");
            return Err(noted(&error, note));
        }
        let record = progress.record.as_ref().unwrap_or(&plan.record);
        return Err(match failing {
            Failing::Restart => give_up(host, record, &error, say),
            _ => undo(host, record, &error, say),
        });
    }
    bail!("the plan never waits for the domain")
}

/// Whether an earlier domain has left a step done.
fn is_done(host: &mut impl Host, step: &PlanStep) -> bool {
    matches!(step, PlanStep::Take(bdf) if assign::is_kept(host, *bdf).unwrap_or(false))
}

/// Takes back all steps, of which each may have been done, half done or not done; gives the error
/// with what came of it.
fn undo(host: &mut impl Host, record: &Record, error: &Error, say: &mut dyn FnMut(&str)) -> Error {
    say("undoing what was done");
    let name = &record.name;
    let undone = end(host, record).and_then(|()| clean::up(host, record, false, say));
    match undone {
        Ok(()) => noted(
            error,
            format!("{name} was not created; everything is as before"),
        ),
        Err(left) => noted(
            error,
            format!(
                "{name} was not created, and not everything could be undone: {left:#}\nrun \
                 `spindlectl destroy {name}` once the cause is gone"
            ),
        ),
    }
}

/// After a restart that failed: leaves what the next one needs, and no domain; gives the error with
/// what came of it.
fn give_up(
    host: &mut impl Host,
    record: &Record,
    error: &Error,
    say: &mut dyn FnMut(&str),
) -> Error {
    say("ending what was begun");
    let name = &record.name;
    let mut left: Vec<String> = end(host, record)
        .err()
        .iter()
        .map(|e| format!("{e:#}"))
        .collect();
    if left.is_empty() {
        let keep = |host: &mut _, bdf| assign::keep(host, bdf).err();
        let kept = record.taken.iter().filter_map(|taken| {
            let error = keep(host, taken.bdf)?;
            Some(format!("{error:#}; {}", assign::place(host, taken.bdf)))
        });
        left.extend(kept.collect::<Vec<_>>());
    }
    let taken = record.taken.iter().map(|taken| taken.bdf.to_string());
    let taken: Vec<String> = taken.collect();
    let state = match (left.is_empty(), taken.is_empty()) {
        (false, _) => left.join("; "),
        (true, true) => "no domain is left of it".into(),
        (true, false) => format!(
            "no domain is left of it; {} stays with xen-pciback, away from dom0's driver",
            taken.join(", ")
        ),
    };
    noted(
        error,
        format!(
            "{state}\nrun `spindlectl restart {name}` again once the cause is gone: all that it needs \
             is kept. `spindlectl destroy {name}` gives up instead"
        ),
    )
}

/// Ends the domain of a record if there is one, whatever name it has.
fn end(host: &mut impl Host, record: &Record) -> Result<()> {
    match Domains::look(host)?.by_uuid(&record.uuid) {
        Some(domain) => domains::kill(host, domain),
        None => Ok(()),
    }
}

/// Does one step. Gives the domain when it serves.
fn perform(
    host: &mut impl Host,
    plan: &Plan,
    step: &PlanStep,
    progress: &mut CreateProgress,
    patience: Duration,
) -> Result<Option<Spindle>> {
    let record = &plan.record;
    let number = progress.domain.as_ref().map(|domain| domain.id);
    let number = number.ok_or_else(|| anyhow!("the domain was not created"));
    match step {
        PlanStep::Note => record.note(host)?,
        // As an earlier domain left it, in a restart.
        PlanStep::Take(bdf) if assign::is_kept(host, *bdf)? => {}
        PlanStep::Take(bdf) => assign::take(host, *bdf).map_err(|error| {
            let hint = "the disk cannot be taken from dom0; does dom0 have xen-pciback (`modprobe \
                        xen-pciback`)?";
            noted(&error, hint)
        })?,
        PlanStep::Keep(text) => write(host, &record.source(), text)?,
        PlanStep::Configure(text) => write(host, &record.config(), text)?,
        PlanStep::Create(shim) => {
            let created = host.run(&plan::create(&record.config(), shim.as_deref()));
            created.map_err(|error| {
                let hint = "`xl -vvv create` would tell more; /var/log/xen may, too";
                noted(&error.into(), hint)
            })?;
            let domains = Domains::look(host)?;
            let name = &record.name;
            let domain = domains.by_uuid(&record.uuid);
            let domain =
                domain.with_context(|| format!("xl has created {name}, but there is none"));
            let domain = domain?.clone();
            let mut noted = record.clone();
            let learnt = noted.learn(host, domain.id);
            progress.domain = Some(domain);
            progress.record = Some(noted);
            learnt?;
        }
        PlanStep::Knobs(knobs) => {
            let path = format!("{}/{}", store::home(number?), spindle_config::STORE_PATH);
            store::write(host, &path, knobs)?;
        }
        PlanStep::Attach(bdf) => {
            assign::attach(host, number?, *bdf).map_err(|error| {
                let hint = "the disk cannot be attached; \"Operation not supported\" means that the \
                            shim had no effect on xl (`ldd` shows whether its libraries are there)";
                noted(&error, hint)
            })?;
        }
        PlanStep::Enable(bdf) => {
            let file = bdf.sysfs("config");
            let patched = host.patch(&file, COMMAND, &MEMORY_AND_BUS_MASTER);
            patched.with_context(|| format!("cannot switch {bdf} on through {file}"))?;
        }
        PlanStep::Unpause => {
            progress.console = console::marks(host, &record.name);
            host.run(&Call::xl(["unpause", &number?.to_string()]))?;
        }
        PlanStep::Await => {
            number?;
            return wait(host, plan, progress, patience).map(Some);
        }
    }
    Ok(None)
}

fn write(host: &mut impl Host, path: &str, text: &str) -> Result<()> {
    let written = host.write(path, text);
    written.with_context(|| format!("cannot write {path}"))
}

/// Waits until the domain serves. A look that fails is not the last one.
fn wait(
    host: &mut impl Host,
    plan: &Plan,
    progress: &CreateProgress,
    patience: Duration,
) -> Result<Spindle> {
    let name = &plan.record.name;
    let domain = progress
        .domain
        .as_ref()
        .context("the domain was not created")?;
    let deadline = host.now().saturating_add(patience);
    let words = |host: &mut _| console::last_words(host, name, &progress.console);
    loop {
        let looked = Spindle::read(host, domain.id);
        let looked = match looked {
            Ok(Some(spindle)) if spindle.ready => {
                if plan.has_disks && spindle.targets.is_empty() {
                    bail!("{name} runs, but has no disk to serve; {}", words(host));
                }
                return Ok(spindle);
            }
            Ok(_) => domains::is_alive(host, domain).map(|alive| (!alive).then_some(())),
            Err(error) => Err(error),
        };
        if let Ok(Some(())) = looked {
            bail!("{name} ended at once; {}", words(host));
        }
        ensure!(!host.interrupted(), "interrupted before {name} served");
        if host.now() >= deadline {
            looked.with_context(|| format!("cannot look whether {name} serves"))?;
            return Err(FaultKind::Late.error(format!(
                "{name} does not serve after {} s; {}",
                patience.as_secs(),
                words(host)
            )));
        }
        host.sleep(LOOK);
    }
}
