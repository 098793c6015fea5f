//! What one core keeps between exchanges: idle upstream connections, buffers, its sheet, its budget. Nothing in here is
//! ever seen by another core.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use super::{budget::Budget, pool::Pool};
use crate::{base::limits, ledger::sheet::Sheet};

pub struct Local<C> {
    pub pool: RefCell<Pool<C>>,
    pub sheet: RefCell<Box<Sheet>>,
    pub budget: Budget,
    /// Answers that are read although their client has left.
    pub unheard: Rc<Cell<usize>>,
    /// Bounds what is copied for logs and estimates.
    pub copies: Budget,
    buffers: RefCell<Vec<Vec<u8>>>,
}

impl<C> Local<C> {
    pub fn new(buffered_bytes_max: usize) -> Self {
        Self {
            pool: RefCell::default(),
            sheet: RefCell::default(),
            budget: Budget::new(buffered_bytes_max),
            unheard: Rc::default(),
            copies: Budget::new(limits::LOG_COPIES_BYTES_MAX),
            buffers: RefCell::default(),
        }
    }

    /// An empty buffer of at least `READ_BYTES`: the one that was used last, which is still in the cache.
    pub fn buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(limits::READ_BYTES))
    }

    /// Takes a buffer back. One that grew, or never was one of ours, goes to the allocator.
    pub fn recycle(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffer.capacity() == limits::READ_BYTES && buffers.len() < limits::POOLED_BUFFERS_MAX {
            buffer.clear();
            buffers.push(buffer);
        }
    }
}
