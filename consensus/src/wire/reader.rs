//! Reading payloads of the wire and of the store. Refuses what is not there before anything is allocated for it.

use bytes::Bytes;

use super::error::WireError;

/// Terms and indices above this are refused, so that sums of a few of them cannot overflow. Epochs use the upper half of
/// a term (`epoch << 32`), which leaves room for 2^30 epochs.
pub const MAX_NUMBER: u64 = 1 << 62;
/// Most replicas in one list of a configuration.
pub const MAX_CONF_IDS: usize = 1024;

/// A cursor that never reads beyond its bytes.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Refuses a count of elements that cannot fit, before anything is allocated for them.
    pub(super) fn expect_left(&self, count: usize, each: usize) -> Result<(), WireError> {
        let (need, left) = (count.saturating_mul(each), self.left());
        if need > left { Err(WireError::Truncated { need, left }) } else { Ok(()) }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        self.expect_left(len, 1)?;
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        Ok(self.take(N)?.try_into().expect("take returns N bytes"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A term or an index.
    pub(crate) fn number(&mut self, what: &'static str) -> Result<u64, WireError> {
        let value = self.u64()?;
        if value > MAX_NUMBER { Err(WireError::Invalid(what)) } else { Ok(value) }
    }

    pub(super) fn len(&mut self) -> Result<usize, WireError> {
        let len = u32::from_le_bytes(self.array()?);
        usize::try_from(len).map_err(|_| WireError::Invalid("length"))
    }

    pub(super) fn blob(&mut self, frame: &Bytes) -> Result<Bytes, WireError> {
        let len = self.len()?;
        self.expect_left(len, 1)?;
        let blob = frame.slice(self.at..self.at + len);
        self.at += len;
        Ok(blob)
    }

    pub(super) fn ids(&mut self) -> Result<Vec<u64>, WireError> {
        let count = self.len()?;
        if count > MAX_CONF_IDS {
            return Err(WireError::Invalid("number of replicas"));
        }
        self.expect_left(count, 8)?;
        (0..count).map(|_| self.u64()).collect()
    }

    pub(crate) fn finish(&self) -> Result<(), WireError> {
        match self.left() {
            0 => Ok(()),
            left => Err(WireError::Trailing(left)),
        }
    }
}
