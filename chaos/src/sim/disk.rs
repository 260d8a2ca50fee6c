//! A machine's disk: it outlives the process that writes to it, and can be made to fail from outside.

use std::cell::RefCell;
use std::rc::Rc;

use consensus::control::storage::memory::{Fault, MemoryStore};
use consensus::control::storage::{Beginning, Durability, Identity, LogStore, Recovered, StoreError, Write};

/// See the module. A clone is the same disk.
#[derive(Clone, Debug)]
pub(super) struct Disk(Rc<RefCell<MemoryStore>>);

impl Disk {
    pub(super) fn new(store: MemoryStore) -> Self {
        Self(Rc::new(RefCell::new(store)))
    }

    /// The next write runs into `fault`.
    pub(super) fn fail(&self, fault: Fault) {
        self.0.borrow_mut().inject(fault);
    }

    /// A fault that no write ran into yet is taken back.
    pub(super) fn repair(&self) {
        self.0.borrow_mut().repair();
    }

    /// What is on it, as the next process finds it.
    pub(super) fn copy(&self) -> MemoryStore {
        let mut store = self.0.borrow().clone();
        store.repair();
        store
    }
}

impl LogStore for Disk {
    fn identity(&self) -> Option<Identity> {
        self.0.borrow().identity()
    }

    fn begin(&mut self, identity: Identity, beginning: Beginning<'_>) -> Result<(), StoreError> {
        self.0.borrow_mut().begin(identity, beginning)
    }

    fn recover(&mut self) -> Result<Recovered, StoreError> {
        self.0.borrow_mut().recover()
    }

    fn write(&mut self, write: &Write<'_>, durability: Durability) -> Result<(), StoreError> {
        self.0.borrow_mut().write(write, durability)
    }
}
