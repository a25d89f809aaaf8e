//! Whatever a peer sends is decoded without a panic and without allocating beyond a bound.
//!
//! Inputs are random bytes and, mostly, mutations of valid ones. `INSULA_FUZZ_SECONDS` sets for how
//! long each test looks (default 2; `cargo xtask fuzz` takes minutes), `INSULA_FUZZ_SEED` repeats
//! a run. A panic is preceded by the input.

mod allocator;
mod mutation;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use insula_contract::edge;
use insula_contract::id::{Attempt, ContractId, EdgeId, Epoch, Instance, ServiceName};
use insula_contract::line::{
    self, ContractView, FRAME_MAX, FromService, Leadership, ServedEdge, ToService, UsedEdge,
};
use insula_contract::local::{Answer, Ask, Described, Resolve, Resolved, WhyNot};
use insula_contract::route::Target;
use insula_contract::schema::{
    DeliverySchema, FieldSchema, MethodSchema, SafetySchema, Schema, SlowSchema, StreamSchema,
    TypeSchema, VariantSchema, compatibility,
};
use insula_ipc::Message;
use insula_ipc::contract::Message;
use insula_ipc::payload::Text;
use serde::{Deserialize, Serialize};

use allocator::peak;
use mutation::Random;

/// What decoding one frame of 64 KiB may allocate. The widest that is valid, a struct of options,
/// takes 3.3 MB: four bytes of it make a field and a box, and a list that grows is there twice for a
/// moment.
const FRAME_PEAK: usize = 4 << 20;

/// Runs `check` on inputs made from `seeds` until the time is over.
fn fuzz(seeds: &[Vec<u8>], longest: usize, check: impl Fn(&[u8])) {
    struct Told<'a>(&'a [u8], u64);
    impl Drop for Told<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("INSULA_FUZZ_SEED={}, input {:?}", self.1, self.0);
            }
        }
    }
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse().expect("a number"))
    };
    let seconds = number("INSULA_FUZZ_SECONDS").unwrap_or(2);
    let seed = number("INSULA_FUZZ_SEED").unwrap_or_else(mutation::any_seed);
    let mut random = Random::new(seed);
    for valid in seeds {
        check(valid);
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut cases = 0_u64;
    while Instant::now() < end {
        for _ in 0..100 {
            let mut input = random.input(seeds);
            input.truncate(longest);
            let told = Told(&input, seed);
            check(&input);
            drop(told);
            cases += 1;
        }
    }
    println!("{cases} cases");
    assert!(cases > 0);
}

fn contract() -> ContractId {
    "kv@1".parse().expect("a contract")
}

fn service() -> ServiceName {
    "kv".parse().expect("a name")
}

fn field(name: &str, schema: TypeSchema) -> FieldSchema {
    FieldSchema {
        name: name.to_owned(),
        schema,
    }
}

fn schema() -> Schema {
    let deep = (0..20).fold(TypeSchema::U8, |inner, level| match level % 4 {
        0 => TypeSchema::Option(Box::new(inner)),
        1 => TypeSchema::Sequence {
            max: 3,
            item: Box::new(inner),
        },
        2 => TypeSchema::Limited {
            max: 90,
            item: Box::new(inner),
        },
        _ => TypeSchema::Array {
            length: 2,
            item: Box::new(inner),
        },
    });
    let fields = vec![
        field("text", TypeSchema::Text { max: 300 }),
        field("bytes", TypeSchema::Bytes { max: u64::MAX }),
        field("deep", deep),
        field("raw", TypeSchema::Raw { max: 7 }),
        field("fixed", TypeSchema::Fixed(Box::new(TypeSchema::F64))),
    ];
    let variant = |name: &str, fields| VariantSchema {
        name: name.to_owned(),
        fields,
    };
    let choice = TypeSchema::Enum(vec![
        variant("None", Vec::new()),
        variant("Some", fields.clone()),
    ]);
    Schema {
        name: "kv".to_owned(),
        major: 1,
        in_flight: 16,
        error: choice.clone(),
        methods: (0..3)
            .map(|id| MethodSchema {
                id,
                name: format!("method_{id}"),
                safety: SafetySchema::Once,
                request: TypeSchema::Struct(fields.clone()),
                response: choice.clone(),
            })
            .collect(),
        streams: vec![StreamSchema {
            id: 1,
            name: "changes".to_owned(),
            delivery: DeliverySchema::Lossless {
                buffer: 8,
                history: 2,
                slow: SlowSchema::Wait,
            },
            item: choice,
        }],
    }
}

fn used() -> UsedEdge {
    UsedEdge {
        edge: EdgeId(3),
        contract: contract(),
        provider: service(),
        parent: "/run/insula/channels/kv/gateway".to_owned(),
        route: 7,
        consumer: Attempt(1 << 40),
        policy: Default::default(),
    }
}

fn frames<M: Serialize>(messages: &[M]) -> Vec<Vec<u8>> {
    let encode = |message| line::encode(message).expect("a frame");
    messages.iter().map(encode).collect()
}

/// Decodes frames of one sort; what is accepted must survive being sent on.
fn fuzz_frames<M>(messages: &[M])
where
    M: Serialize + for<'a> Deserialize<'a> + PartialEq + Debug,
{
    fuzz(&frames(messages), FRAME_MAX + 1, |input| {
        let (decoded, peak) = peak(|| line::decode::<M>(input));
        assert!(peak <= FRAME_PEAK, "{peak} bytes allocated");
        let Ok(message) = decoded else { return };
        let again = line::encode(&message).expect("what fitted before");
        assert_eq!(line::decode::<M>(&again).as_ref(), Ok(&message));
    });
}

#[test]
fn any_frame_of_a_service() {
    let view = || ContractView {
        contract: contract(),
        schema: u64::MAX,
    };
    fuzz_frames(&[
        FromService::Hello {
            attempt: Attempt(300),
            transport: 1,
            provides: vec![view(); 3],
            requires: vec![view(); 2],
            data_schema: 2,
            leadership: Leadership::Leading(Epoch(4)),
            ready: true,
            serving: (0..9).map(EdgeId).collect(),
            routes_fd: Some(-1),
        },
        FromService::Ready,
        FromService::Yielded { epoch: Epoch(9) },
        FromService::Serving { edge: EdgeId(1) },
        FromService::Late {
            contract: contract(),
            waited_ms: 5000,
        },
        FromService::Failing {
            reason: "no disk".to_owned(),
        },
        FromService::Schema(schema()),
    ]);
}

#[test]
fn any_frame_of_the_supervisor() {
    fuzz_frames(&[
        ToService::Welcome {
            instance: Instance {
                service: service(),
                index: 0,
            },
            attempt: Attempt(300),
            slot: 15,
            spin_ns: u64::MAX,
            steady_tsc: true,
        },
        ToService::Serve(ServedEdge {
            edge: EdgeId(2),
            contract: contract(),
            parent: "/run/insula/channels/kv/gateway".to_owned(),
            consumer_name: "gateway".to_owned(),
            consumer: Attempt(9),
            limits: Default::default(),
        }),
        ToService::Use(used()),
        ToService::Unserve {
            edge: EdgeId(2),
            consumer: Attempt(9),
        },
        ToService::Lead { epoch: Epoch(2) },
        ToService::Ping { ping: 7 },
    ]);
}

#[test]
fn any_question_of_a_local_client() {
    fuzz_frames(&[
        Ask::Resolve(Resolve {
            contract: contract(),
            schema: schema(),
            transport: 1,
        }),
        Ask::List,
        Ask::Describe(contract()),
    ]);
}

#[test]
fn any_answer_to_a_local_client() {
    fuzz_frames(&[
        Answer::Resolved(Resolved::Granted {
            edge: used(),
            spin_ns: 20_000,
        }),
        Answer::Listed(vec![contract(); 4]),
        Answer::Described(Described::Served {
            provider: service(),
            schema: schema(),
        }),
        Answer::Described(Described::Refused {
            why: WhyNot::Unknown,
            reason: "unknown".to_owned(),
        }),
    ]);
}

/// A schema that was accepted is hashed, measured and compared by the supervisor.
#[test]
fn any_schema_that_a_peer_gives() {
    let ours = schema();
    fuzz(&frames(&[schema()]), FRAME_MAX, |input| {
        let Ok(theirs) = line::decode::<Schema>(input) else {
            return;
        };
        let ((), peak) = peak(|| {
            let _ = (theirs.hash(), theirs.error.encoded_max());
            for method in &theirs.methods {
                let _ = (method.request.encoded_max(), method.response.encoded_max());
            }
            let _ = compatibility::check(&theirs, &ours);
            let _ = compatibility::check(&ours, &theirs);
            let _ = compatibility::check(&theirs, &theirs);
        });
        assert!(peak <= FRAME_PEAK, "{peak} bytes allocated");
    });
}

/// Every list claims to be as long as the frame or endless, as deep as a schema may go.
#[test]
fn lists_that_claim_to_be_long_take_a_bounded_place() {
    let frame_long: &[u8] = &[0xe0, 0xff, 0x01];
    let endless: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let structure = (0..=255)
        .find(|tag| {
            let bytes = [*tag, 0];
            matches!(postcard::from_bytes(&bytes), Ok(TypeSchema::Struct(_)))
        })
        .expect("the number of a struct");
    let peaks = [frame_long, endless].map(|length| {
        let mut bytes = Vec::new();
        while bytes.len() < FRAME_MAX {
            bytes.push(structure);
            bytes.extend(length);
            // The name of its first field.
            bytes.push(0);
        }
        let (decoded, peak) = peak(|| postcard::from_bytes::<TypeSchema>(&bytes));
        assert!(decoded.is_err());
        peak
    });
    println!("{peaks:?} bytes");
    assert!(peaks.iter().all(|peak| *peak <= FRAME_PEAK), "{peaks:?}");
}

/// As many of these types as a frame holds, beside each other in a struct or as an enum's variants.
fn widest(item: &TypeSchema, gather: impl Fn(Vec<FieldSchema>) -> TypeSchema) -> Vec<u8> {
    let of = |count| {
        let fields = vec![field("", item.clone()); count];
        let message = FromService::Schema(Schema {
            error: gather(fields),
            methods: Vec::new(),
            streams: Vec::new(),
            ..schema()
        });
        line::encode(&message)
    };
    let each = of(101).expect("a frame").len() - of(100).expect("a frame").len();
    // The count itself takes a byte or two more.
    let count = (FRAME_MAX - of(0).expect("a frame").len() - 2) / each;
    let frame = of(count).expect("a frame");
    assert!(frame.len() + each + 2 > FRAME_MAX, "no more would fit");
    frame
}

/// A few bytes make a list of one, which has room for four in memory.
#[test]
fn the_widest_frames_that_are_valid_take_a_bounded_place() {
    let one = |inner| TypeSchema::Struct(vec![field("", inner)]);
    let variant = |fields| VariantSchema {
        name: String::new(),
        fields,
    };
    let choice = |inner| TypeSchema::Enum(vec![variant(vec![field("", inner)])]);
    let nested = |levels: usize, level: &dyn Fn(TypeSchema) -> TypeSchema| {
        (0..levels).fold(TypeSchema::U8, |inner, _| level(inner))
    };
    let items = [
        ("a number", TypeSchema::U8),
        (
            "an option",
            nested(1, &|inner| TypeSchema::Option(Box::new(inner))),
        ),
        ("a struct", nested(1, &one)),
        ("structs", nested(20, &one)),
        ("an enum", nested(1, &choice)),
        ("enums", nested(20, &choice)),
    ];
    let mut most = 0;
    for (name, item) in items {
        let variants = |fields: Vec<FieldSchema>| {
            let each = fields.into_iter().map(|field| variant(vec![field]));
            TypeSchema::Enum(each.collect())
        };
        let frames = [widest(&item, TypeSchema::Struct), widest(&item, variants)];
        for frame in frames {
            let (decoded, peak) = peak(|| line::decode::<FromService>(&frame));
            println!("{name}: {} bytes of frame, {peak} allocated", frame.len());
            assert!(decoded.is_ok(), "{name}");
            assert!(peak <= FRAME_PEAK, "{name}: {peak} bytes allocated");
            most = most.max(peak);
        }
    }
    assert!(
        most > FRAME_PEAK / 2,
        "the bound is far from what is needed"
    );
}

#[test]
fn any_text_of_an_id() {
    let seeds = ["kv@1", "a-b-c@65535", "kv"].map(|text| text.as_bytes().to_vec());
    fuzz(&seeds, 300, |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        if let Ok(contract) = text.parse::<ContractId>() {
            assert_eq!(contract.to_string().parse(), Ok(contract));
        }
        if let Ok(name) = text.parse::<ServiceName>() {
            assert_eq!(name.as_str(), text);
            assert!(!text.contains(['/', '\0']) && text != ".." && !text.is_empty());
        }
    });
}

#[test]
fn any_word_of_a_page_or_a_route() {
    fuzz(&[vec![0; 8], vec![0xff; 8]], 8, |input| {
        let mut bytes = [0; 8];
        bytes[..input.len()].copy_from_slice(input);
        let word = u64::from_le_bytes(bytes);
        let target = Target::from_word(word);
        assert_eq!(Target::from_word(target.to_word()), target);
        if let Some(wish) = edge::Wish::from_word(word) {
            assert_eq!(edge::Wish::from_word(wish.to_word()), Some(wish));
        }
        let _ = edge::Answer::from_word(word, word as u32);
    });
}

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
struct Entry<'a> {
    #[message(max = 64)]
    key: Text<'a>,
    #[message(max = 4096)]
    value: &'a [u8],
}

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
struct Nothing;

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
enum Choice<'a> {
    Plain,
    New(Entry<'a>),
    Many {
        #[message(max = 50)]
        entries: Vec<Entry<'a>>,
        #[message(max = [10, 10])]
        lists: Vec<Vec<u64>>,
        #[message(max = 9)]
        owned: Option<String>,
    },
    Nothings(#[message(max = 1000)] Vec<Nothing>),
}

/// Arbitrary bytes never cost more than their own length, several times over.
#[test]
fn any_bytes_of_a_message() {
    let entry = || Entry {
        key: "a key".into(),
        value: b"a value",
    };
    let messages = [
        Choice::Plain,
        Choice::New(entry()),
        Choice::Many {
            entries: vec![entry(); 20],
            lists: vec![vec![1, 300, u64::MAX]; 9],
            owned: Some("owned".to_owned()),
        },
        Choice::Nothings(vec![Nothing; 1000]),
    ];
    let seeds: Vec<Vec<u8>> = messages
        .iter()
        .map(|message| {
            let mut place = vec![0; Choice::ENCODED_MAX];
            let length = Choice::encode(message, &mut place).expect("it fits");
            place.truncate(length);
            place
        })
        .collect();
    fuzz(&seeds, 1 << 16, |input| {
        let (decoded, peak) = peak(|| Choice::decode(input));
        let bound = 64 * 1024 + 64 * input.len();
        assert!(peak <= bound, "{peak} bytes allocated for {}", input.len());
        let Some(message) = decoded else { return };
        let mut place = vec![0; Choice::ENCODED_MAX];
        let length = Choice::encode(&message, &mut place).expect("what was decoded fits");
        assert_eq!(Choice::decode(&place[..length]).as_ref(), Some(&message));
    });
}
