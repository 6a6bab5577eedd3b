//! The last known good on disk: the objects in use, as they came, for a start while the API server is away.

mod trim;

pub(super) use self::trim::trim;
