//! The processor: exceptions, stacks, time stamps and the few instructions that need assembly.

pub(crate) mod backtrace;
pub(crate) mod cpu;
mod gdt;
mod idt;
mod trap;

pub(crate) use gdt::CoreTables;

use alloc::boxed::Box;

/// Sets up the core that runs this: its descriptor tables, and exception handlers with stacks of
/// their own. Every core calls it once, on its own stack.
///
/// # Errors
/// Without memory for the stacks.
pub(crate) fn set_up_core() -> Result<(), crate::mm::StackError> {
    let tables = Box::leak(Box::new(CoreTables::new()?));
    tables.load();
    idt::load();
    Ok(())
}
