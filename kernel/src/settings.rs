//! The options, collected before anything depends on them: xenstore first, then the command line,
//! which wins.

use alloc::vec;

use log::{info, warn};
use spindle_config::{Config, STORE_PATH};
use spindle_control::LOOK_NS;
use spindle_hw::Clock;
use spindle_status::path;
use spindle_xen::event::{Deadline, Notify, Port};
use spindle_xen::store::{Client, Event, Priority, Request, Ring};

use crate::xen::{Events, sched, time::CoreClock};

/// How long xenstored may take to answer before that is logged; it does so in milliseconds when it is
/// there at all.
const PATIENCE_NS: u64 = 5_000_000_000;

/// Reads the options from xenstore, if there is a ring to it, and from the command line, and those that
/// were set while a former life ran, if this one is `again`; and sets the log level.
pub(crate) fn collect(
    store: Option<(&mut Ring, Port, Events)>,
    clock: &CoreClock,
    command_line: &str,
    again: bool,
) -> Config {
    let mut config = Config::default();
    let complain = |place: &str, error: spindle_config::ConfigError| warn!("{place}: {error}");
    let mut store = store;
    if let Some((ring, port, events)) = &mut store {
        match read(STORE_PATH, ring, *port, *events, clock) {
            Some(text) => {
                info!("options in xenstore: {text}");
                config.set_all(&text, |error| complain(STORE_PATH, error));
            }
            None => info!("no options in xenstore"),
        }
    }
    for word in xen_pvh_boot::words(command_line).filter(|word| word.key != "debug_port") {
        if let Err(error) = config.set(word.key, word.value) {
            complain("command line", error);
        }
    }
    if again
        && let Some((ring, port, events)) = store
        && let Some(text) = read(path::SETTINGS, ring, port, events, clock)
    {
        info!("options set while Spindle ran: {text}");
        config.set_all(&text, |error| complain(path::SETTINGS, error));
    }
    log::set_max_level(config.log);
    config
}

/// The text of a node with options; `None` without one. Waits for the answer, however long it takes: one
/// that came later, or what is left of it, the next client of the ring would take for its own. And
/// without xenstored there are no guests to serve.
fn read(
    node: &str,
    ring: &mut Ring,
    port: Port,
    events: Events,
    clock: &CoreClock,
) -> Option<alloc::string::String> {
    let mut client = Client::new();
    client.send(vec![Request::Read(node.into())], Priority::Urgent);
    let mut patience = Some(clock.now_ns() + PATIENCE_NS);
    loop {
        events.take_pending(port);
        match client.poll(ring) {
            Some(Event::Replies(_, replies)) => {
                let text = replies.into_iter().next()?.ok()?;
                return alloc::string::String::from_utf8(text).ok();
            }
            Some(Event::Broken) => return None,
            Some(_) => continue,
            None => {}
        }
        if ring.take_notify() {
            events.notify(port);
        }
        let now = clock.now_ns();
        if patience.take_if(|until| now >= *until).is_some() {
            warn!("xenstored does not answer; waiting for it");
        }
        // An error only means that the sleep was short. Its event may be lost.
        let _ = sched::poll(&[port], Deadline::new(now, now + LOOK_NS));
    }
}
