//! `spindlectl`: creates, destroys and watches Spindle domains, from dom0.
//!
//! `plan` finds out what to do, `create`, `destroy`, `restart` and `update` do it and undo it, `spindle` reads
//! what running domains show in xenstore, for `tables` and `metrics`. All of them reach dom0 through
//! `host`, so that they are tested without one.
//!
//! Three rules hold throughout. A disk is in the hands of one domain at a time: it is given to no
//! other, dom0 included, before Xen no longer lists the one that had it. What could not be looked at
//! is an error, never "not there". What was done is looked at in the end, before it is reported.

#![forbid(unsafe_code)]

mod assign;
mod attach;
mod check;
mod clean;
mod cli;
mod console;
mod crash;
mod create;
#[cfg(test)]
mod create_tests;
mod destroy;
#[cfg(test)]
mod destroy_tests;
mod dom0;
#[cfg(test)]
mod dom0_tests;
mod domains;
#[cfg(test)]
mod failure_tests;
#[cfg(test)]
mod fake;
mod fault;
mod generate;
mod health;
mod host;
mod json;
mod life;
mod limit;
mod lock;
mod log;
mod lost;
#[cfg(test)]
mod machine_tests;
mod mapped;
mod metrics;
#[cfg(test)]
mod metrics_tests;
mod nvme;
mod order;
#[cfg(test)]
mod pages_tests;
mod pci;
mod place;
#[cfg(test)]
mod place_tests;
mod plan;
#[cfg(test)]
mod plan_tests;
mod record;
mod rescan;
mod restart;
#[cfg(test)]
mod restart_tests;
mod set;
mod sheet;
#[cfg(test)]
mod shutdown_tests;
mod spindle;
mod store;
mod sums;
mod survey;
#[cfg(test)]
mod survey_tests;
mod tables;
mod top;
mod trace;
mod update;
#[cfg(test)]
mod update_tests;
mod usage;
mod users;
mod volume;
mod watch;
mod why;
mod xlcfg;

use std::env;
use std::fmt::Display;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use attach::Attach;
use cli::{
    AttachArgs, CheckArgs, Cli, CrashArgs, CreateArgs, DestroyArgs, DetachArgs, GenerateArgs,
    HealthArgs, LimitArgs, LogArgs, NamedVolume, NvmeArgs, RescanArgs, RestartArgs, SetArgs,
    StatArgs, Top, UpdateArgs, Verb, VolumeVerb, WatchArgs, WhyArgs,
};
use crash::Crash;
use create::Failing;
use destroy::Destroy;
use dom0::Dom0;
use fault::FaultKind;
use host::Host;
use nvme::NvmePage;
use plan::{Plan, Wanted};
use sheet::{Paper, Sheet};
use spindle::Spindle;
use spindle_status::orders::VolumeAction;
use top::TopView;
use update::Update;

/// Locked while something is changed.
const LOCK: &str = "/run/spindlectl.lock";
/// How often Spindle publishes its counters, with some time to spare.
const PUBLISHED: Duration = Duration::from_secs(6);
/// How often `top` looks for news that are late.
const LOOK: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = Output {
        json: cli.json,
        wide: cli.wide,
        paper: Paper::of_output(cli.wide),
    };
    let result = match cli.verb {
        Verb::Create(args) => create(out, args),
        Verb::Destroy(args) => destroy(&args),
        Verb::Restart(args) => restart(out, args),
        Verb::Update(args) => update(out, &args),
        Verb::Rescan(args) => rescan(out, &args),
        Verb::Limit(args) => limit(out, &args),
        Verb::Volume(verb) => volume(out, verb),
        Verb::Set(args) => set(out, &args),
        Verb::Attach(args) => attach(out, &args),
        Verb::Detach(args) => detach(out, &args),
        Verb::Crash(args) => crash(out, &args),
        Verb::List => list(out),
        Verb::Health(args) => health(out, &args),
        Verb::Watch(args) => watch(&args),
        Verb::Stat(args) => stat(out, &args),
        Verb::Top(args) => top(out, &args),
        Verb::Metrics => all().and_then(|all| show(metrics::text(&all).trim_end())),
        Verb::Why(args) => why(out, &args),
        Verb::Trace(args) => trace(out, &args),
        Verb::Smart(args) => page(out, &args, NvmePage::Smart),
        Verb::IdCtrl(args) => page(out, &args, NvmePage::Controller),
        Verb::IdNs(args) => page(out, &args, NvmePage::Namespace),
        Verb::ErrorLog(args) => page(out, &args.disk, NvmePage::Errors(args.entries)),
        Verb::Log(args) => log(out, &args),
        Verb::Check(args) => survey(out, &args),
        Verb::Generate(args) => generate(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}").replace('\n', "\n  ");
            // Without a place to say it, the status still tells.
            let _ = writeln!(io::stderr(), "error: {text}");
            ExitCode::from(FaultKind::of(&error).status())
        }
    }
}

fn say(what: &str) {
    // A configuration is many lines; its first tells which.
    let line = what.lines().next().unwrap_or_default();
    // Standard error may be closed; what was begun goes on all the same.
    let _ = writeln!(io::stderr(), "+ {line}");
}

/// All Spindle domains that run, or should.
fn all() -> Result<Vec<Spindle>> {
    let all = Spindle::all_made(&mut Dom0::new())?;
    compare(&all);
    Ok(all)
}

/// Names the domains whose version differs from this tool's.
fn compare(spindles: &[Spindle]) {
    for note in spindles.iter().filter_map(Spindle::mismatch) {
        say(&format!("note: {note}"));
    }
}

fn create(out: Output, args: CreateArgs) -> Result<()> {
    let config = args
        .config
        .map(|path| fs::read_to_string(&path).with_context(|| format!("cannot read {path}")));
    let wanted = Wanted {
        config: config.transpose()?,
        route: args.route,
        name: args.name,
        memory: args.memory,
        vcpus: args.vcpus,
        pci: args.pci,
        image: args.image,
        knobs: args.knobs,
        shims: args.shim.map_or_else(shims, |shim| vec![shim]),
    };
    let mut host = Dom0::new();
    if !args.dry_run {
        alone(&mut host, args.lock.lock_timeout, "create")?;
    }
    let plan = Plan::new(&mut host, &wanted, None)?;
    for note in &plan.notes {
        say(&format!("note: {note}"));
    }
    if args.dry_run {
        for step in &plan.steps {
            show(step.shell(&plan.record))?;
        }
        return Ok(());
    }
    let patience = Duration::from_secs(args.timeout);
    let failing = if args.keep {
        Failing::Keep
    } else {
        Failing::Undo
    };
    let spindle = create::create(&mut host, &plan, patience, failing, &mut say)?;
    compare(std::slice::from_ref(&spindle));
    out.list(&[spindle])
}

fn destroy(args: &DestroyArgs) -> Result<()> {
    let mut host = Dom0::new();
    alone(
        &mut host,
        args.lock.lock_timeout,
        &format!("destroy {}", args.name),
    )?;
    let args = Destroy {
        name: &args.name,
        force: args.force,
        keep_disk: args.keep_disk,
        patience: Duration::from_secs(args.timeout),
    };
    destroy::destroy(&mut host, &args, &mut say)
}

fn restart(out: Output, args: RestartArgs) -> Result<()> {
    let mut host = Dom0::new();
    alone(
        &mut host,
        args.lock.lock_timeout,
        &format!("restart {}", args.name),
    )?;
    let shims = args.shim.map_or_else(shims, |shim| vec![shim]);
    let patience = Duration::from_secs(args.timeout);
    let (spindle, guests) = restart::restart(
        &mut host,
        &args.name,
        (args.force, args.unless_runs),
        shims,
        patience,
        &mut say,
    )?;
    compare(std::slice::from_ref(&spindle));
    out.list(&[spindle])?;
    if !guests.is_empty() && !out.json {
        let guests = guests.join(", ");
        show(format!("These guests had disks from it: {guests}."))?;
        show("One whose disk was at rest gets it back without a reboot, as a new one:")?;
        show("  xl block-detach --force GUEST VDEV && xl block-attach GUEST 'DISK'")?;
        show("One that had I/O in flight waits for it without end: xl destroy, then xl create.")?;
    }
    Ok(())
}

fn update(out: Output, args: &UpdateArgs) -> Result<()> {
    let mut host = Dom0::new();
    alone(
        &mut host,
        args.lock.lock_timeout,
        &format!("update {}", args.name),
    )?;
    let args = Update {
        name: &args.name,
        image: args.image.as_deref(),
        dry_run: args.dry_run,
        patience: Duration::from_secs(args.timeout),
    };
    out.message(&update::update(&mut host, &args, &mut say)?)
}

fn rescan(out: Output, args: &RescanArgs) -> Result<()> {
    let patience = Duration::from_secs(args.timeout);
    let mut host = Dom0::new();
    let disk = args.disk.as_deref();
    let answer = rescan::rescan(&mut host, &args.name, disk, patience)?;
    if out.json {
        let lines = answer.lines().map(|line| {
            let (disk, state) = line.split_once(' ').unwrap_or((line, ""));
            serde_json::json!({ "disk": disk, "state": state })
        });
        return show(serde_json::Value::from_iter(lines));
    }
    show(answer)
}

fn limit(out: Output, args: &LimitArgs) -> Result<()> {
    let mut host = Dom0::new();
    if !args.words.is_empty() {
        let me = format!("limit {}", args.name);
        alone(&mut host, args.lock.lock_timeout, &me)?;
    }
    let (name, whose) = (&args.name, &args.whose);
    let patience = Duration::from_secs(args.timeout);
    let limits = limit::limit(&mut host, name, whose, &args.words, patience)?;
    if out.json {
        return show(serde_json::json!({ "whose": whose, "limits": limits }));
    }
    show(match limits.as_str() {
        "" => format!("{whose}: no limits"),
        limits => format!("{whose}: {limits}"),
    })
}

fn volume(out: Output, verb: VolumeVerb) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let time = now.map_or(0, |now| now.as_secs());
    match verb {
        VolumeVerb::Create(args) => {
            let (sectors, more) = volume::size(&args.size)?;
            ensure!(
                !more,
                "there is nothing yet that {} could be added to",
                args.size
            );
            change_volume(out, &args.volume, VolumeAction::Create { sectors, time })
        }
        VolumeVerb::Extend(args) => {
            let (sectors, more) = volume::size(&args.size)?;
            change_volume(out, &args.volume, VolumeAction::Extend { sectors, more })
        }
        VolumeVerb::Remove(args) => change_volume(out, &args, VolumeAction::Remove),
        VolumeVerb::Rename(args) => {
            change_volume(out, &args.volume, VolumeAction::Rename { to: args.to })
        }
        VolumeVerb::List(args) => {
            let all = all()?;
            let spindle = spindle::named(&all, &args.name)?;
            let volumes = volume::of(spindle, args.group.as_deref());
            let table = volume::table(spindle, &volumes);
            out.sheets(&[table], || json::targets(&volumes))
        }
    }
}

fn change_volume(out: Output, args: &NamedVolume, action: VolumeAction) -> Result<()> {
    let mut host = Dom0::new();
    let me = format!("volume {}", args.name);
    alone(&mut host, args.lock.lock_timeout, &me)?;
    let patience = Duration::from_secs(args.timeout);
    let said = volume::change(&mut host, &args.name, &args.volume, action, patience)?;
    let volume = &args.volume;
    out.message(&match said.as_str() {
        "" => format!("{volume}: done"),
        said => format!("{volume}: done, {said}"),
    })
}

fn set(out: Output, args: &SetArgs) -> Result<()> {
    let mut host = Dom0::new();
    if !args.words.is_empty() {
        alone(
            &mut host,
            args.lock.lock_timeout,
            &format!("set {}", args.name),
        )?;
    }
    let patience = Duration::from_secs(args.timeout);
    let settings = set::set(&mut host, &args.name, &args.words, patience)?;
    if out.json {
        return show(serde_json::json!({ "name": args.name, "settings": settings }));
    }
    show(match settings.as_str() {
        "" => format!("{}: nothing was set while it runs", args.name),
        settings => format!("{}: {settings}", args.name),
    })
}

fn attach(out: Output, args: &AttachArgs) -> Result<()> {
    let mut host = Dom0::new();
    alone(
        &mut host,
        args.lock.lock_timeout,
        &format!("attach {}", args.guest),
    )?;
    let wanted = Attach {
        guest: &args.guest,
        target: &args.target,
        vdev: args.vdev.as_deref(),
        read_only: args.read_only,
        from: args.from.as_deref(),
        patience: Duration::from_secs(args.timeout),
    };
    out.message(&attach::attach(&mut host, &wanted)?)
}

fn detach(out: Output, args: &DetachArgs) -> Result<()> {
    let mut host = Dom0::new();
    alone(
        &mut host,
        args.lock.lock_timeout,
        &format!("detach {}", args.device),
    )?;
    let patience = Duration::from_secs(args.timeout);
    out.message(&attach::detach(
        &mut host,
        &args.device,
        args.force,
        patience,
    )?)
}

fn crash(out: Output, args: &CrashArgs) -> Result<()> {
    let order = Crash {
        name: &args.name,
        how: args.how,
        core: args.core,
        patience: Duration::from_secs(args.timeout),
    };
    out.message(&crash::crash(&mut Dom0::new(), &order)?)
}

/// Has whoever else changes something end first, and what we change not be cut off by Ctrl-C.
fn alone(host: &mut Dom0, patience: u64, me: &str) -> Result<()> {
    alone_at(LOCK, host, patience, me)
}

/// The same of those who take this lock.
fn alone_at(path: &str, host: &mut Dom0, patience: u64, me: &str) -> Result<()> {
    if host.user() != 0 {
        // Who is not root will be refused, with better words.
        return Ok(());
    }
    host.catch_signals().context("cannot catch signals")?;
    let patience = Duration::from_secs(patience);
    let lock = lock::lock(host, Path::new(path), patience, me, |holder| {
        say(&format!("waiting for {holder} to end"));
    })?;
    host.hold(lock);
    Ok(())
}

/// How to print.
#[derive(Clone, Copy)]
struct Output {
    json: bool,
    wide: bool,
    paper: Paper,
}

impl Output {
    /// Prints tables, or what is the same as JSON.
    fn sheets(self, sheets: &[Sheet], json: impl FnOnce() -> serde_json::Value) -> Result<()> {
        if self.json {
            return show(json());
        }
        let mut sheets = sheets.iter().map(|sheet| sheet.render(self.paper));
        sheets.try_for_each(show)
    }

    /// Prints what serves what, and what there is to be said of it.
    fn list(self, all: &[Spindle]) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let notes = tables::notes(all, now.map_or(0, |now| now.as_secs()));
        self.sheets(&[tables::list(all)], || json::list(all, &notes))?;
        if self.json {
            return Ok(());
        }
        let width = self.paper.width.unwrap_or(usize::MAX);
        notes
            .iter()
            .try_for_each(|note| show(sheet::wrap("", note, width)))
    }

    /// Prints what was done.
    fn message(self, text: &str) -> Result<()> {
        if self.json {
            return show(serde_json::json!({ "message": text }));
        }
        show(text)
    }
}

/// Prints. Ends the program where the output is not read any more, as by `head`.
fn show(text: impl Display) -> Result<()> {
    if !put(&mut io::stdout(), &text).context("cannot print")? {
        std::process::exit(0);
    }
    Ok(())
}

/// Writes a line; false if it is not read any more.
fn put(out: &mut impl Write, text: &impl Display) -> io::Result<bool> {
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true),
    }
}

/// Where the preload library is looked for.
fn shims() -> Vec<String> {
    const NAME: &str = "libspindle_shim.so";
    let beside = env::current_exe().ok();
    let beside = beside.as_deref().and_then(Path::parent);
    let beside = beside.map(|folder| folder.join(NAME).display().to_string());
    let installed = format!("/usr/lib/spindle/{NAME}");
    beside.into_iter().chain([installed]).collect()
}

fn list(out: Output) -> Result<()> {
    let all = all()?;
    if all.is_empty() {
        let text = "no Spindle runs\n`spindlectl create --help` tells how to start one";
        return Err(FaultKind::Absent.error(text));
    }
    out.list(&all)?;
    let down = all.iter().find_map(|it| Some((&it.name, it.silent?)));
    down.map_or(Ok(()), |(name, how)| {
        Err(FaultKind::Down.error(format!("{} {how}", tables::text(name))))
    })
}

fn health(out: Output, args: &HealthArgs) -> Result<()> {
    let patience = Duration::from_secs(args.timeout);
    let mut host = Dom0::new();
    alone_at(nvme::LOCK, &mut host, 120, "health")?;
    let all = watch::health(&mut host, args.name.as_deref(), patience)?;
    match out.json {
        true => show(watch::json(&all))?,
        false => show(watch::lines(&all))?,
    }
    watch::verdict(&all)
}

fn watch(args: &WatchArgs) -> Result<()> {
    let mut host = Dom0::new();
    host.catch_signals().context("cannot catch signals")?;
    let program = env::current_exe().context("where is this program?")?;
    let program = program.display().to_string();
    let times = [args.every, args.timeout].map(Duration::from_secs);
    let mut lock = || {
        let patience = Duration::from_secs(120);
        lock::lock(
            &mut Dom0::new(),
            Path::new(nvme::LOCK),
            patience,
            "watch",
            |_| {},
        )
        .map(Some)
    };
    watch::watch(
        &mut host,
        &args.name,
        times.into(),
        &program,
        &mut lock,
        &mut say,
    )
}

fn stat(out: Output, args: &StatArgs) -> Result<()> {
    let all = all()?;
    if args.explain && !out.json {
        return show(tables::explained(
            &all,
            out.paper.width.unwrap_or(usize::MAX),
        ));
    }
    let [disks, sums, cores] = tables::stat(&all);
    // Most hosts have neither groups nor several guests on a disk.
    let sums = Some(sums).filter(|sums| !sums.rows().is_empty());
    let shown: Vec<_> = [Some(disks), sums, Some(cores)]
        .into_iter()
        .flatten()
        .collect();
    out.sheets(&shown, || json::stat(&all))
}

fn why(out: Output, args: &WhyArgs) -> Result<()> {
    let reasons = why::why(&mut Dom0::new(), &args.device)?;
    if out.json {
        return show(reasons.json());
    }
    show(reasons.text(out.paper.width.unwrap_or(80)))
}

fn trace(out: Output, args: &WhyArgs) -> Result<()> {
    let trace = trace::trace(&mut Dom0::new(), &args.device)?;
    if out.json {
        return show(trace.json());
    }
    show(trace.text(out.paper.width.unwrap_or(80)))
}

fn page(out: Output, args: &NvmeArgs, page: NvmePage) -> Result<()> {
    let mut host = Dom0::new();
    alone_at(
        nvme::LOCK,
        &mut host,
        120,
        &format!("a page of {}", args.disk),
    )?;
    let patience = Duration::from_secs(args.timeout);
    let answer = nvme::read(&mut host, &args.disk, args.from.as_deref(), page, patience)?;
    if out.json {
        return show(answer.json);
    }
    show(answer.text)
}

fn log(out: Output, args: &LogArgs) -> Result<()> {
    let mut host = Dom0::new();
    host.catch_signals().context("cannot catch signals")?;
    let mut print = |line: String| match out.json {
        true => show(serde_json::json!({ "line": line })),
        false => show(line),
    };
    log::log(&mut host, &args.name, args.lines, args.follow, &mut print)
}

fn survey(out: Output, args: &CheckArgs) -> Result<()> {
    let findings = survey::survey(&mut Dom0::new(), &args.pci, &shims())?;
    if out.json {
        show(survey::json(&findings))?;
    } else {
        show(survey::text(&findings, out.paper.width.unwrap_or(80)))?;
    }
    survey::verdict(&findings)
}

fn generate(args: &GenerateArgs) -> Result<()> {
    let text = generate::generate(args.what, args.into.as_deref())?;
    if text.is_empty() {
        return Ok(());
    }
    show(text.trim_end())
}

fn top(out: Output, args: &Top) -> Result<()> {
    let mut host = Dom0::new();
    let every = Duration::from_secs(args.every);
    let (mut before, mut looked) = (Spindle::all(&mut host)?, Instant::now());
    // Before there are rates, none: nothing has happened between one look and itself.
    let begin = tables::top(&before, &before, 1.0);
    let view = TopView::new(&begin, args.sort.as_deref())?;
    // Rates, once enough time has passed and there is news; or, after as long as Spindle may take, as
    // nothing has happened.
    let mut next = || -> Result<Option<(Vec<Spindle>, [Sheet; 3])>> {
        if looked.elapsed() < every {
            return Ok(None);
        }
        let now = Spindle::all(&mut host)?;
        if now == before && looked.elapsed() < every + PUBLISHED {
            return Ok(None);
        }
        let sheets = tables::top(&before, &now, looked.elapsed().as_secs_f64());
        looked = Instant::now();
        before.clone_from(&now);
        Ok(Some((now, sheets)))
    };
    let screen = io::stdout().is_terminal() && io::stdin().is_terminal();
    if screen && !(out.json || args.batch || args.count.is_some()) {
        return top::run(begin, view, out.wide, &mut || {
            Ok(next()?.map(|(_, sheets)| sheets))
        });
    }
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        thread::sleep(LOOK.min(every));
        let Some((now, sheets)) = next()? else {
            continue;
        };
        left -= 1;
        if !out.json {
            show(top::clock())?;
        }
        out.sheets(&view.order(&sheets), || json::stat(&now))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_preload_library_is_looked_for_beside_the_program_and_where_it_is_installed() {
        let program = env::current_exe().expect("this one");
        let beside = program.with_file_name("libspindle_shim.so");
        let installed = "/usr/lib/spindle/libspindle_shim.so".to_string();
        assert_eq!(shims(), [beside.display().to_string(), installed]);
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure() {
        let mut seen = Vec::new();
        assert!(put(&mut seen, &"a").expect("written"));
        assert_eq!(seen, b"a\n");
        assert!(!put(&mut Broken(io::ErrorKind::BrokenPipe), &"a").expect("no failure"));
        assert!(put(&mut Broken(io::ErrorKind::StorageFull), &"a").is_err());
    }
}
