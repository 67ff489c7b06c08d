//! That a domain is shut down in order, which is when it flushes its disk, before it is destroyed;
//! and that both happen where they must.

use std::time::Duration;

use crate::create::{Failing, create};
use crate::destroy::{Destroy, destroy};
use crate::fake::{Fake, wanted};
use crate::plan::{Plan, Route};

const PATIENCE: Duration = Duration::from_secs(30);

/// A domain that is up, and then destroyed; gives the calls that change something.
fn destroyed(route: Route, prepare: impl FnOnce(&mut Fake)) -> Vec<String> {
    let mut host = Fake::with_nvme("nvme");
    let before = host.state.clone();
    let plan = Plan::new(&mut host, &wanted(route), None).expect("a plan");
    create(&mut host, &plan, PATIENCE, Failing::Undo, &mut |_| {}).expect("created");
    host.mend();
    prepare(&mut host);
    let args = Destroy {
        name: "spindle",
        force: false,
        keep_disk: false,
        patience: PATIENCE,
    };
    destroy(&mut host, &args, &mut |_| {}).expect("destroyed");
    assert_eq!(host.state, before);
    let changes = host.calls.into_iter().filter(|call| call.changes);
    let ends = |text: &String| text.contains("shutdown") || text.contains("xl destroy");
    changes.map(|call| call.text).filter(ends).collect()
}

#[test]
fn a_domain_that_listens_is_shut_down_and_never_destroyed() {
    for route in [Route::Hvm, Route::Pvh] {
        let calls = destroyed(route, |_| {});
        assert_eq!(calls, ["xl shutdown 3"], "{route:?}");
    }
}

/// xl does not believe that an HVM container can shut down: then it is asked in xenstore, and ends
/// by itself all the same.
#[test]
fn a_domain_that_xl_does_not_ask_is_asked_in_xenstore_and_never_destroyed() {
    for route in [Route::Hvm, Route::Pvh] {
        let calls = destroyed(route, |host| host.shutdown_refused = true);
        let asked = "xenstore-write /local/domain/3/control/shutdown poweroff";
        assert_eq!(calls, ["xl shutdown 3", asked], "{route:?}");
    }
}

#[test]
fn a_domain_that_does_not_listen_is_destroyed_after_it_was_asked() {
    for route in [Route::Hvm, Route::Pvh] {
        let calls = destroyed(route, |host| host.deaf = true);
        assert_eq!(calls, ["xl shutdown 3", "xl destroy 3"], "{route:?}");
    }
}
