//! Which node announces which address. Owns that decision, and what nodes tell each other for it; never touches an
//! interface.

mod wanted;

pub use self::wanted::{Wanted, wanted};
