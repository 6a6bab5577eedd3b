//! The naive reading of the rules: a linear scan that the indexed lookup must agree with. Tests only use it
//! as the judge, and `explain` to say why each other candidate lost.
