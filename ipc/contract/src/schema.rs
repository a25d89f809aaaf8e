//! The structural schema of a contract and its compatibility rules.
