//! Goal of the suite: nothing named is lost, whatever happens and whenever.

mod names;
