//! The rule that a verdict names.
use crate::compile::RuleKey;
use std::sync::Arc;
use std::{fmt, ops};

/// A rule of a table, by name: a count on the table's list of names and a place in it. One count for all rules, because a count for
/// each was three quarters of a verdict's time at 100,000 rules: every verdict wrote to memory that no cache held.
///
/// It keeps that list alive, not the table.
#[derive(Clone)]
pub struct RuleRef {
    rules: Arc<[RuleKey]>,
    /// Less than the length of `rules`.
    number: usize,
}

impl RuleRef {
    /// `None`: there is no such rule.
    pub(crate) fn new(rules: &Arc<[RuleKey]>, number: u32) -> Option<Self> {
        let number = number as usize;
        (number < rules.len()).then(|| Self { rules: rules.clone(), number })
    }
}

impl From<RuleKey> for RuleRef {
    fn from(rule: RuleKey) -> Self {
        Self { rules: Arc::new([rule]), number: 0 }
    }
}

impl ops::Deref for RuleRef {
    type Target = RuleKey;

    fn deref(&self) -> &RuleKey {
        &self.rules[self.number]
    }
}

/// By name, whatever table it is from.
impl PartialEq for RuleRef {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for RuleRef {}

impl fmt::Debug for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}
