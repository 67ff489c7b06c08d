//! `create`: goes through a plan, and takes everything back if a step fails.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::destroy::kill;
use crate::host::{Call, Host};
use crate::plan::{self, Plan, Step};
use crate::record::Record;
use crate::spindle::Spindle;
use crate::{store, tables};

/// PCI's command register, and what it is set to: memory decoding and bus mastering on, the
/// interrupt line off (PCI 3.0, 6.2.2).
const COMMAND: u64 = 4;
const MEMORY_AND_BUS_MASTER: [u8; 2] = [0x06, 0x04];
/// How often to look whether it serves.
const LOOK: Duration = Duration::from_millis(100);
/// Where xenconsoled keeps what domains print, if it is told to.
const CONSOLES: [&str; 2] = ["/var/log/xen/console", "/var/log/xen"];
/// Lines of a console that are shown when a domain fails.
const LAST_WORDS: usize = 8;

/// Does what is planned, telling `say` of each step; gives the domain once it serves.
///
/// # Errors
/// If a step fails. Then all steps are undone, as far as that goes, or left if `keep` is set; the
/// error says what is left, and what to do.
pub(crate) fn create(
    host: &mut impl Host,
    plan: &Plan,
    patience: Duration,
    keep: bool,
    say: &mut dyn FnMut(&str),
) -> Result<Spindle> {
    let mut id = None;
    for step in &plan.steps {
        say(&step.shell(&plan.record));
        let error = match perform(host, plan, step, &mut id, patience) {
            Ok(Some(spindle)) => return Ok(spindle),
            Ok(None) => continue,
            Err(error) => error,
        };
        let name = &plan.record.name;
        if keep {
            return Err(error.context(format!(
                "{name} is left as it is; `spindlectl destroy {name}` cleans up"
            )));
        }
        say("undoing what was done");
        return Err(match undo(host, &plan.record, &plan.steps) {
            Ok(()) => error.context(format!("{name} was not created; everything is as before")),
            Err(left) => error.context(format!(
                "{name} was not created, and not everything could be undone ({left:#}); run \
                 `spindlectl destroy {name}`"
            )),
        });
    }
    bail!("the plan never waits for the domain")
}

/// Does one step. Gives the domain when it serves.
fn perform(
    host: &mut impl Host,
    plan: &Plan,
    step: &Step,
    id: &mut Option<u32>,
    patience: Duration,
) -> Result<Option<Spindle>> {
    let record = &plan.record;
    let name = record.name.as_str();
    let number = id.ok_or_else(|| anyhow!("the domain was not created"));
    match step {
        Step::Note => store::write(host, &Record::path(name), &record.to_string())?,
        // As an earlier domain left it, in a restart.
        Step::Take(bdf) if Record::has_taken(host, *bdf) => {}
        Step::Take(bdf) => {
            let bdf = bdf.to_string();
            let taken = host.run(&Call::xl(["pci-assignable-add", &bdf]));
            taken.context(
                "the disk cannot be taken from dom0; does dom0 have xen-pciback \
                 (`modprobe xen-pciback`)?",
            )?;
        }
        Step::Keep(text) => write(host, &record.source(), text)?,
        Step::Configure(text) => write(host, &record.config, text)?,
        Step::Create(shim) => {
            host.run(&plan::create(&record.config, shim.as_deref()))
                .context("`xl -vvv create` would tell more; /var/log/xen may, too")?;
            *id = record.domain(host)?;
            ensure!(id.is_some(), "xl has created {name}, but there is none");
        }
        Step::Knobs(knobs) => {
            let home = store::home(number?);
            store::write(
                host,
                &format!("{home}/{}", spindle_config::STORE_PATH),
                knobs,
            )?;
        }
        Step::Attach(bdf) => {
            let bdf = bdf.to_string();
            let attached = host.run(&Call::xl(["pci-attach", name, &bdf]));
            attached.context(
                "the disk cannot be attached; \"Operation not supported\" means that the shim had \
                 no effect on xl (`ldd` shows whether its libraries are there)",
            )?;
        }
        Step::Enable(bdf) => {
            let file = bdf.sysfs("config");
            let patched = host.patch(&file, COMMAND, &MEMORY_AND_BUS_MASTER);
            patched.with_context(|| format!("cannot switch {bdf} on through {file}"))?;
        }
        Step::Unpause => drop(host.run(&Call::xl(["unpause", name]))?),
        Step::Await => return wait(host, plan, number?, patience).map(Some),
    }
    Ok(None)
}

fn write(host: &mut impl Host, path: &str, text: &str) -> Result<()> {
    let written = host.write(path, text);
    written.with_context(|| format!("cannot write {path}"))
}

/// Waits until the domain serves.
fn wait(host: &mut impl Host, plan: &Plan, id: u32, patience: Duration) -> Result<Spindle> {
    let record = &plan.record;
    let name = &record.name;
    let deadline = host.now() + patience;
    loop {
        if let Some(spindle) = Spindle::read(host, id).filter(|spindle| spindle.ready) {
            ensure!(
                !plan.has_disks || !spindle.targets.is_empty(),
                "{name} runs, but has no disk to serve; {}",
                last_words(host, name)
            );
            return Ok(spindle);
        }
        let alive = record.domain(host)?.is_some();
        ensure!(alive, "{name} ended at once; {}", last_words(host, name));
        ensure!(
            host.now() < deadline,
            "{name} does not serve after {} s; {}",
            patience.as_secs(),
            last_words(host, name)
        );
        host.sleep(LOOK);
    }
}

/// The end of what the domain has printed, if that is kept anywhere.
fn last_words(host: &mut impl Host, name: &str) -> String {
    for folder in CONSOLES {
        let path = format!("{folder}/guest-{name}.log");
        if let Ok(text) = host.read(&path) {
            let plain = |line: &str| tables::text(line.trim_end());
            let lines: Vec<String> = text.lines().map(plain).collect();
            let from = lines.len().saturating_sub(LAST_WORDS);
            return format!("the end of {path}:\n  {}", lines[from..].join("\n  "));
        }
    }
    format!(
        "`xl console -t pv {name}` would show why (after --keep), or a console log (start \
         xenconsoled with --log=guest)"
    )
}

/// Takes back all steps, the last one first. Each of them may have been done, half done or not
/// done, or done by the domain that a restart replaces.
fn undo(host: &mut impl Host, record: &Record, steps: &[Step]) -> Result<()> {
    let mut left = Vec::new();
    for step in steps.iter().rev() {
        let undone = match step {
            Step::Create(_) => destroy(host, record),
            Step::Take(bdf) => Record::give_back(host, *bdf),
            Step::Keep(_) => record.forget_configs(host),
            // The note stays for `destroy` if anything else does.
            Step::Note if left.is_empty() => record.forget(host),
            // The configuration goes with the other one, the rest ends with the domain.
            Step::Note
            | Step::Configure(_)
            | Step::Knobs(_)
            | Step::Attach(_)
            | Step::Enable(_)
            | Step::Unpause
            | Step::Await => Ok(()),
        };
        left.extend(undone.err().map(|error| format!("{error:#}")));
    }
    ensure!(left.is_empty(), "{}", left.join("; "));
    Ok(())
}

/// Destroys the domain, if it is there and ours.
fn destroy(host: &mut impl Host, record: &Record) -> Result<()> {
    if let Some(id) = record.domain(host)? {
        kill(host, &record.name, id)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destroy;
    use crate::fake::{Failure, Fake, wanted};
    use crate::plan::Route;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn run(host: &mut Fake, route: Route) -> Result<Spindle> {
        let plan = Plan::new(host, &wanted(route), None)?;
        host.calls.clear();
        create(host, &plan, PATIENCE, false, &mut |_| {})
    }

    fn cases() -> impl Iterator<Item = (Route, &'static str)> {
        let routes = [Route::Hvm, Route::Pvh].into_iter();
        routes.flat_map(|route| ["nvme", "pciback"].map(|driver| (route, driver)))
    }

    #[test]
    fn both_routes_end_with_a_domain_that_serves_its_disk() {
        for (route, driver) in cases() {
            let mut host = Fake::with_nvme(driver);
            let spindle = run(&mut host, route).expect("created");
            assert_eq!(spindle.targets.len(), 1, "{route:?} {driver}");
        }
    }

    #[test]
    fn a_failure_at_any_step_leaves_everything_as_it_was() {
        for (route, driver) in cases() {
            let mut clean = Fake::with_nvme(driver);
            run(&mut clean, route).expect("created");
            for (call, when) in Failure::all(clean.calls.len()) {
                let mut host = Fake::with_nvme(driver);
                let before = host.state.clone();
                let plan = Plan::new(&mut host, &wanted(route), None).expect("a plan");
                host.fail(call, when);
                let result = create(&mut host, &plan, PATIENCE, false, &mut |_| {});
                if let Err(error) = result {
                    let text = format!("{error:#}");
                    assert!(text.contains("everything is as before"), "{text}");
                    assert_eq!(host.state, before, "{route:?} {driver} {call} {when:?}");
                }
            }
        }
    }

    #[test]
    fn what_could_not_be_undone_is_left_to_destroy() {
        for (route, driver) in cases() {
            let mut clean = Fake::with_nvme(driver);
            run(&mut clean, route).expect("created");
            for (call, when) in Failure::all(clean.calls.len()) {
                for (again, when_again) in Failure::all(8) {
                    let mut host = Fake::with_nvme(driver);
                    let before = host.state.clone();
                    let plan = Plan::new(&mut host, &wanted(route), None).expect("a plan");
                    host.fail(call, when);
                    host.fail(call + 1 + again, when_again);
                    let result = create(&mut host, &plan, PATIENCE, false, &mut |_| {});
                    let Err(error) = result else { continue };
                    host.failures.clear();
                    if host.state != before {
                        let text = format!("{error:#}");
                        assert!(text.contains("spindlectl destroy spindle"), "{text}");
                        destroy::destroy(&mut host, "spindle", true, PATIENCE, &mut |_| {})
                            .expect("cleaned up");
                    }
                    assert_eq!(host.state, before, "{route:?} {driver} {call} {again}");
                }
            }
        }
    }

    #[test]
    fn a_shim_without_effect_is_found_out_before_the_disk_may_do_anything() {
        let mut host = Fake::with_nvme("nvme");
        host.shim_works = false;
        let before = host.state.clone();
        let error = run(&mut host, Route::Pvh).expect_err("refused");
        assert!(format!("{error:#}").contains("Operation not supported"));
        assert_eq!(host.state, before);
        assert!(!host.calls.iter().any(|call| call.text.contains("unpause")));
    }

    #[test]
    fn a_domain_that_dies_hangs_or_finds_no_disk_is_taken_back_with_its_last_words() {
        for (fate, word) in [
            (crate::fake::Fate::Dies, "ended at once"),
            (crate::fake::Fate::Hangs, "does not serve after 30 s"),
            (crate::fake::Fate::FindsNoDisk, "no disk to serve"),
        ] {
            let mut host = Fake::with_nvme("nvme");
            host.put(
                "/var/log/xen/guest-spindle.log",
                "one\r\nerror: two\r\n\x1b]0;three\x07\r\n",
            );
            let before = host.state.clone();
            host.fate = fate;
            let error = run(&mut host, Route::Pvh).expect_err("refused");
            let text = format!("{error:#}");
            assert!(text.contains(word) && text.contains("error: two"), "{text}");
            assert!(
                text.contains("?]0;three?"),
                "nothing for the terminal: {text}"
            );
            assert_eq!(host.state, before);
        }
    }

    #[test]
    fn a_namesake_is_never_destroyed() {
        let mut host = Fake::with_nvme("pciback");
        let plan = Plan::new(&mut host, &wanted(Route::Pvh), None).expect("a plan");
        // Somebody else's domain of this name appears between the check and the creation.
        host.add_domain("spindle", "somebody-elses");
        let before = host.state.clone();
        let error = create(&mut host, &plan, PATIENCE, false, &mut |_| {});
        assert!(error.is_err());
        assert_eq!(host.state, before);
    }

    #[test]
    fn a_failed_domain_is_kept_when_asked() {
        let mut host = Fake::with_nvme("nvme");
        host.fate = crate::fake::Fate::Hangs;
        let plan = Plan::new(&mut host, &wanted(Route::Pvh), None).expect("a plan");
        let error = create(&mut host, &plan, PATIENCE, true, &mut |_| {}).expect_err("it hangs");
        assert!(format!("{error:#}").contains("spindlectl destroy spindle"));
        assert_eq!(host.state.domains.len(), 1);
    }
}
