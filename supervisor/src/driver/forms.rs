//! The schemas that ends of edges sent, and the verdicts about them that the core is told.
//!
//! A schema is kept as long as the process or the local client that sent it, in its encoding, and
//! once for all who sent the same. Who it came from is not trusted: its frame was checked for
//! length and its types for depth when it was decoded, an end may send `SCHEMAS_MAX` of them, and
//! the hash that it goes by is computed here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use insula_contract::id::{Attempt, ContractId};
use insula_contract::line::SCHEMA_MAX;
use insula_contract::schema::{Schema, check};
use insula_core::event::{ClientId, Event};
use insula_core::views::Verdict;

use super::Driver;

/// Places that a verdict names at most.
const PLACES_MAX: usize = 5;

/// Whose schema it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Process(Attempt),
    Client(ClientId),
}

/// How an end looks at a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Provides,
    Requires,
}

impl Use {
    fn other(self) -> Self {
        match self {
            Self::Provides => Self::Requires,
            Self::Requires => Self::Provides,
        }
    }
}

/// One end's schema of a contract.
#[derive(Debug, Clone)]
struct Form {
    hash: u64,
    encoded: Arc<[u8]>,
}

impl Form {
    fn schema(&self) -> Option<Schema> {
        postcard::from_bytes(&self.encoded).ok()
    }
}

#[derive(Debug, Default)]
struct Ends {
    provides: BTreeMap<Owner, Form>,
    requires: BTreeMap<Owner, Form>,
}

impl Ends {
    fn of(&self, which: Use) -> &BTreeMap<Owner, Form> {
        match which {
            Use::Provides => &self.provides,
            Use::Requires => &self.requires,
        }
    }

    fn of_mut(&mut self, which: Use) -> &mut BTreeMap<Owner, Form> {
        match which {
            Use::Provides => &mut self.provides,
            Use::Requires => &mut self.requires,
        }
    }
}

/// The schemas of all ends.
#[derive(Debug, Default)]
pub(super) struct Forms {
    contracts: BTreeMap<ContractId, Ends>,
    owners: BTreeMap<Owner, BTreeSet<ContractId>>,
    encodings: BTreeSet<Arc<[u8]>>,
}

impl Forms {
    /// Keeps what an end sent; what it sent before of the same is gone.
    pub(super) fn keep(&mut self, owner: Owner, which: Use, schema: &Schema) {
        let Ok(contract) = ContractId::new(&schema.name, schema.major) else {
            return;
        };
        let encoded = match postcard::to_stdvec(schema) {
            Ok(encoded) if encoded.len() <= SCHEMA_MAX => encoded,
            Ok(_) | Err(_) => return,
        };
        let encoded = match self.encodings.get(encoded.as_slice()) {
            Some(known) => known.clone(),
            None => {
                let encoded: Arc<[u8]> = encoded.into();
                self.encodings.insert(encoded.clone());
                encoded
            }
        };
        let form = Form {
            hash: schema.hash(),
            encoded,
        };
        let owned = self.owners.entry(owner).or_default();
        owned.insert(contract.clone());
        let ends = self.contracts.entry(contract).or_default();
        let before = ends.of_mut(which).insert(owner, form);
        if let Some(before) = before
            && Arc::strong_count(&before.encoded) == 2
        {
            self.encodings.remove(&before.encoded);
        }
    }

    /// Forgets an end that is gone.
    pub(super) fn forget(&mut self, owner: Owner) {
        for contract in self.owners.remove(&owner).unwrap_or_default() {
            let Some(ends) = self.contracts.get_mut(&contract) else {
                continue;
            };
            for which in [Use::Provides, Use::Requires] {
                let form = ends.of_mut(which).remove(&owner);
                // One is the set's, one is this.
                if let Some(form) = form
                    && Arc::strong_count(&form.encoded) == 2
                {
                    self.encodings.remove(&form.encoded);
                }
            }
            if ends.provides.is_empty() && ends.requires.is_empty() {
                self.contracts.remove(&contract);
            }
        }
    }

    /// How one end's form of a contract goes together with those at the other side that differ.
    pub(super) fn judge(&self, owner: Owner, which: Use, contract: &ContractId) -> Vec<Verdict> {
        let Some(ends) = self.contracts.get(contract) else {
            return Vec::new();
        };
        let Some(own) = ends.of(which).get(&owner) else {
            return Vec::new();
        };
        let mut verdicts: BTreeMap<u64, Verdict> = BTreeMap::new();
        for other in ends.of(which.other()).values() {
            if other.hash == own.hash || verdicts.contains_key(&other.hash) {
                continue;
            }
            let (consumer, provider) = match which {
                Use::Provides => (other, own),
                Use::Requires => (own, other),
            };
            let verdict = Verdict {
                contract: contract.clone(),
                consumer: consumer.hash,
                provider: provider.hash,
                misfit: misfit(consumer, provider),
            };
            verdicts.insert(other.hash, verdict);
        }
        verdicts.into_values().collect()
    }

    /// A process's form of a contract that it provides.
    pub(super) fn provided(&self, attempt: Attempt, contract: &ContractId) -> Option<Schema> {
        let ends = self.contracts.get(contract)?;
        ends.provides.get(&Owner::Process(attempt))?.schema()
    }
}

fn misfit(consumer: &Form, provider: &Form) -> Option<String> {
    let (Some(consumer), Some(provider)) = (consumer.schema(), provider.schema()) else {
        return Some("a schema that was kept cannot be read".to_owned());
    };
    let problems = check(&consumer, &provider).err()?;
    let mut told: Vec<_> = problems
        .iter()
        .take(PLACES_MAX)
        .map(ToString::to_string)
        .collect();
    if problems.len() > PLACES_MAX {
        told.push(format!("and {} places more", problems.len() - PLACES_MAX));
    }
    Some(told.join("; "))
}

impl Driver {
    /// A process said hello, after it sent its schemas.
    pub(super) fn greeted(&mut self, mut event: Event, schemas: &[Schema]) -> Event {
        let Event::Greeted {
            attempt,
            provides,
            requires,
            verdicts,
            ..
        } = &mut event
        else {
            return event;
        };
        // One that the core does not know is never forgotten by it either.
        if self.core.service_of(*attempt).is_none() {
            return event;
        }
        let owner = Owner::Process(*attempt);
        self.forms.forget(owner);
        for (which, views) in [(Use::Provides, provides), (Use::Requires, requires)] {
            for view in views.iter() {
                let named = schemas.iter().find(|schema| {
                    schema.name == view.contract.name()
                        && schema.major == view.contract.major()
                        && schema.hash() == view.schema
                });
                if let Some(schema) = named {
                    self.forms.keep(owner, which, schema);
                }
                verdicts.extend(self.forms.judge(owner, which, &view.contract));
            }
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use insula_contract::schema::{MethodSchema, SafetySchema, TypeSchema};

    use super::*;

    fn schema(text_max: u64) -> Schema {
        let read = MethodSchema {
            id: 1,
            name: "read".into(),
            safety: SafetySchema::Idempotent,
            request: TypeSchema::Text { max: text_max },
            response: TypeSchema::Bool,
        };
        Schema {
            name: "counter".into(),
            major: 1,
            in_flight: 16,
            error: TypeSchema::Enum(vec![]),
            methods: vec![read],
            streams: vec![],
        }
    }

    #[test]
    fn a_pair_is_judged_in_the_direction_of_travel_and_the_place_is_named() {
        let contract = "counter@1".parse().unwrap();
        let (provider, consumer) = (Owner::Process(Attempt(1)), Owner::Process(Attempt(2)));
        let mut forms = Forms::default();
        forms.keep(provider, Use::Provides, &schema(100));
        forms.keep(consumer, Use::Requires, &schema(100));
        assert_eq!(forms.judge(consumer, Use::Requires, &contract), []);
        forms.keep(provider, Use::Provides, &schema(200));
        let verdicts = forms.judge(provider, Use::Provides, &contract);
        assert_eq!(verdicts.len(), 1);
        assert_eq!(verdicts[0].misfit, None);
        forms.keep(provider, Use::Provides, &schema(50));
        let verdicts = forms.judge(consumer, Use::Requires, &contract);
        let misfit = "counter@1.read.request: the provider takes at most 50, the consumer sends up \
                      to 100";
        assert_eq!(verdicts[0].misfit.as_deref(), Some(misfit));
        assert_eq!(
            (verdicts[0].consumer, verdicts[0].provider),
            (schema(100).hash(), schema(50).hash())
        );
    }

    #[test]
    fn a_schema_is_kept_once_and_as_long_as_somebody_has_it() {
        let mut forms = Forms::default();
        for attempt in 1..=3 {
            forms.keep(Owner::Process(Attempt(attempt)), Use::Requires, &schema(9));
        }
        assert_eq!(forms.encodings.len(), 1);
        for attempt in 1..=3 {
            assert_eq!(forms.encodings.len(), 1);
            forms.forget(Owner::Process(Attempt(attempt)));
        }
        assert!(forms.encodings.is_empty() && forms.contracts.is_empty());
    }
}
