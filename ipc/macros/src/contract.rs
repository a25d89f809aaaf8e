//! `#[contract]`.

mod aio;
mod generate;
mod stream;

use std::collections::BTreeMap;
use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use syn::parse::Parser;
use syn::{
    Attribute, Error, FnArg, Ident, ItemTrait, LitInt, LitStr, Path, Result, ReturnType, TraitItem,
    TraitItemFn, Type, Visibility, parse_quote,
};

use crate::shape::as_static;
use stream::Stream;

/// As `insula_contract::id::NAME_MAX`.
const NAME_MAX: usize = 32;
/// Unless the contract says otherwise.
const IN_FLIGHT: u32 = 16;
/// The most requests that a connection may have outstanding.
const IN_FLIGHT_MAX: u32 = 1024;
/// Method names that would collide with the client's own.
const TAKEN: [&str; 3] = ["new", "connect", "connection"];

struct Contract {
    krate: Path,
    visibility: Visibility,
    docs: Vec<Attribute>,
    ident: Ident,
    name: String,
    major: u16,
    error: Type,
    in_flight: u32,
    methods: Vec<Method>,
    streams: Vec<Stream>,
}

struct Method {
    docs: Vec<Attribute>,
    ident: Ident,
    marker: Ident,
    id: u16,
    safety: Safety,
    /// Its reply consists of items.
    streaming: bool,
    /// The field of the request that decides which instance gets it.
    key: Option<Ident>,
    deadline: Duration,
    /// `None` for `()`.
    request: Option<Type>,
    response: Type,
}

#[derive(Clone, Copy, PartialEq)]
enum Safety {
    AtMostOnce,
    Idempotent,
    Once,
}

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    Ok(Contract::read(options, &syn::parse2(item)?)?.write())
}

fn is_name(text: &str) -> bool {
    text.len() <= NAME_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.ends_with('-')
}

fn number<T: std::str::FromStr>(literal: &LitInt, expected: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    literal
        .base10_parse()
        .map_err(|_| Error::new(literal.span(), format!("expected {expected}")))
}

fn parse_duration(literal: &LitStr) -> Result<Duration> {
    let wrong = || {
        Error::new(
            literal.span(),
            "expected a whole number and a unit, more than nothing: \"100us\", \"50ms\", \"1s\", \"2m\"",
        )
    };
    let text = literal.value();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let micros: u64 = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        _ => return Err(wrong()),
    };
    let count: u64 = count.parse().map_err(|_| wrong())?;
    match count.checked_mul(micros) {
        Some(micros) if micros > 0 => Ok(Duration::from_micros(micros)),
        _ => Err(wrong()),
    }
}

fn is_doc(attribute: &Attribute) -> bool {
    attribute.path().is_ident("doc")
}

/// `get_all` as `GetAll`.
fn camel(ident: &Ident) -> Ident {
    let mut name = String::new();
    for word in ident.to_string().trim_start_matches("r#").split('_') {
        let mut letters = word.chars();
        if let Some(first) = letters.next() {
            name.extend(first.to_uppercase());
            name.push_str(letters.as_str());
        }
    }
    Ident::new(&name, ident.span())
}

/// `RoomRates` as `room_rates`.
fn snake(ident: &Ident) -> Ident {
    let mut name = String::new();
    for letter in ident.to_string().chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    Ident::new(&name, ident.span())
}

impl Contract {
    fn read(options: TokenStream, item: &ItemTrait) -> Result<Self> {
        let mut name: Option<LitStr> = None;
        let mut major = None;
        let mut error: Option<Type> = None;
        let mut in_flight = None;
        let mut krate: Path = parse_quote!(::insula::ipc);
        syn::meta::parser(|meta| {
            let value = meta.value()?;
            match meta.path.require_ident()?.to_string().as_str() {
                "name" => name = Some(value.parse()?),
                "major" => major = Some(number(&value.parse()?, "a number from 0 to 65535")?),
                "error" => error = Some(value.parse()?),
                "in_flight" => {
                    let literal: LitInt = value.parse()?;
                    in_flight = match number(&literal, "a number")? {
                        count @ 1..=IN_FLIGHT_MAX => Some(count),
                        _ => {
                            let text = format!("expected a number from 1 to {IN_FLIGHT_MAX}");
                            return Err(Error::new(literal.span(), text));
                        }
                    };
                }
                "crate" => krate = value.call(Path::parse_mod_style)?,
                _ => {
                    return Err(meta.error(
                        "unknown option of a contract; known: `name`, `major`, `error`, \
                         `in_flight`, `crate`",
                    ));
                }
            }
            Ok(())
        })
        .parse2(options)?;
        let missing = |option: &str| {
            Error::new(
                Span::call_site(),
                format!("a contract needs its `{option}`"),
            )
        };
        let name = name.ok_or_else(|| missing("name = \"...\""))?;
        if !is_name(&name.value()) {
            return Err(Error::new(
                name.span(),
                "a contract's name has lower-case letters, digits and inner hyphens, a letter \
                 first, and at most 32 bytes",
            ));
        }
        let (methods, streams) = read_items(item)?;
        Ok(Self {
            krate,
            visibility: item.vis.clone(),
            docs: item.attrs.clone(),
            ident: item.ident.clone(),
            name: name.value(),
            major: major.ok_or_else(|| missing("major = ..."))?,
            error: error.ok_or_else(|| missing("error = ..."))?,
            in_flight: in_flight.unwrap_or(IN_FLIGHT),
            methods,
            streams,
        })
    }
}

fn read_items(item: &ItemTrait) -> Result<(Vec<Method>, Vec<Stream>)> {
    if let Some(surplus) = item.attrs.iter().find(|attribute| !is_doc(attribute)) {
        return Err(Error::new_spanned(
            surplus,
            "a contract has no attribute but documentation",
        ));
    }
    if !item.generics.params.is_empty() || !item.supertraits.is_empty() {
        let text = "a contract has no parameters and no supertraits";
        return Err(Error::new_spanned(&item.generics, text));
    }
    let mut problems: Option<Error> = None;
    let mut note = |error: Error| match &mut problems {
        None => problems = Some(error),
        Some(problems) => problems.combine(error),
    };
    let (mut methods, mut streams) = (Vec::new(), Vec::new());
    let mut ids = BTreeMap::new();
    let mut markers: BTreeMap<Ident, Ident> = BTreeMap::new();
    for item in &item.items {
        let TraitItem::Fn(function) = item else {
            let text = "a contract consists of methods and streams";
            note(Error::new_spanned(item, text));
            continue;
        };
        let is_stream = stream::is_stream(function);
        let read = if is_stream {
            Stream::read(function).map(|stream| {
                let key = (stream.id, stream.ident.clone(), stream.marker.clone());
                streams.push(stream);
                key
            })
        } else {
            Method::read(function).map(|method| {
                let key = (method.id, method.ident.clone(), method.marker.clone());
                methods.push(method);
                key
            })
        };
        let (id, ident, marker) = match read {
            Ok(key) => key,
            Err(error) => {
                note(error);
                continue;
            }
        };
        if let Some(other) = ids.insert((is_stream, id), ident.clone()) {
            let kind = if is_stream { "stream" } else { "method" };
            let text = format!("{kind} number {id} belongs to `{other}`");
            note(Error::new(ident.span(), text));
        }
        if let Some(other) = markers.insert(marker, ident.clone()) {
            let text = format!("the name collides with that of `{other}`");
            note(Error::new(ident.span(), text));
        }
    }
    if !streams.is_empty()
        && let Some(method) = methods.iter().find(|method| method.ident == "streams")
    {
        let text = "`streams` is a name of the server's own in a contract that has streams";
        note(Error::new(method.ident.span(), text));
    }
    match problems {
        Some(problems) => Err(problems),
        None if methods.is_empty() && streams.is_empty() => Err(Error::new(
            item.ident.span(),
            "a contract needs a method or a stream",
        )),
        None => Ok((methods, streams)),
    }
}

/// Refuses what neither a method nor a stream has.
fn plain_signature(function: &TraitItemFn, kind: &str, expected: &str) -> Result<()> {
    let signature = &function.sig;
    if let Some(body) = &function.default {
        let text = format!("{kind} of a contract has no body");
        return Err(Error::new_spanned(body, text));
    }
    if signature.asyncness.is_some()
        || signature.unsafety.is_some()
        || signature.constness.is_some()
        || !signature.generics.params.is_empty()
    {
        return Err(Error::new_spanned(signature, expected));
    }
    Ok(())
}

impl Safety {
    fn ident(self) -> Ident {
        let name = match self {
            Self::AtMostOnce => "AtMostOnce",
            Self::Idempotent => "Idempotent",
            Self::Once => "Once",
        };
        Ident::new(name, Span::call_site())
    }
}

impl Method {
    fn name(&self) -> String {
        self.ident.to_string().trim_start_matches("r#").to_owned()
    }

    fn static_request(&self) -> Type {
        self.request
            .as_ref()
            .map_or_else(|| parse_quote!(()), as_static)
    }

    fn read(function: &TraitItemFn) -> Result<Self> {
        let signature = &function.sig;
        plain_signature(
            function,
            "a method",
            "expected `fn name(request: Request) -> Response;`",
        )?;
        let ident = signature.ident.clone();
        if TAKEN.iter().any(|taken| ident == taken) {
            let text = format!("`{ident}` is a name of the client's own");
            return Err(Error::new(ident.span(), text));
        }
        let mut inputs = signature.inputs.iter();
        let request = match (inputs.next(), inputs.next()) {
            (None, _) => None,
            (Some(FnArg::Typed(request)), None) => Some((*request.ty).clone()),
            (Some(other), _) => {
                return Err(Error::new_spanned(
                    other,
                    "a method takes one request, and no `self`: the client and the server add \
                     theirs",
                ));
            }
        };
        let response: Type = match &signature.output {
            ReturnType::Default => parse_quote!(()),
            ReturnType::Type(_, response) => (**response).clone(),
        };
        let mut options = None;
        for attribute in &function.attrs {
            if is_doc(attribute) {
                continue;
            }
            if !attribute.path().is_ident("method") {
                return Err(Error::new_spanned(
                    attribute,
                    "a method has no attributes but `method` and documentation",
                ));
            }
            if options.is_some() {
                return Err(Error::new_spanned(attribute, "`method` is given twice"));
            }
            options = Some(read_options(attribute)?);
        }
        let Some(options) = options else {
            return Err(Error::new(
                ident.span(),
                "a method needs its options: `#[method(id = 1, idempotent, deadline = \"1s\")]`",
            ));
        };
        if let Some(key) = options.key.as_ref().filter(|_| request.is_none()) {
            let text = "a method without a request has no key";
            return Err(Error::new(key.span(), text));
        }
        Ok(Self {
            docs: function
                .attrs
                .iter()
                .filter(|attribute| is_doc(attribute))
                .cloned()
                .collect(),
            marker: camel(&ident),
            ident,
            id: options.id,
            safety: options.safety,
            streaming: options.streaming,
            key: options.key,
            deadline: options.deadline,
            request,
            response,
        })
    }
}

/// What is written in a `#[method(...)]`.
struct Options {
    id: u16,
    safety: Safety,
    streaming: bool,
    key: Option<Ident>,
    deadline: Duration,
}

fn read_options(attribute: &Attribute) -> Result<Options> {
    let (mut id, mut deadline, mut safety, mut key) = (None, None, None, None);
    let mut streaming = false;
    attribute.parse_nested_meta(|meta| {
        match meta.path.require_ident()?.to_string().as_str() {
            "id" => {
                let expected = "a number from 1 to 65535";
                let literal: LitInt = meta.value()?.parse()?;
                id = match number(&literal, expected)? {
                    0 => {
                        return Err(Error::new(literal.span(), format!("expected {expected}")));
                    }
                    id => Some(id),
                };
            }
            "deadline" => deadline = Some(parse_duration(&meta.value()?.parse()?)?),
            "key" => key = Some(meta.value()?.parse()?),
            "streaming" => streaming = true,
            word @ ("idempotent" | "once") => {
                if safety.is_some() {
                    return Err(meta.error("a method is `idempotent` or `once`, not both"));
                }
                let idempotent = word == "idempotent";
                safety = Some(if idempotent {
                    Safety::Idempotent
                } else {
                    Safety::Once
                });
            }
            _ => {
                return Err(meta.error(
                    "unknown option of a method; known: `id`, `deadline`, `idempotent`, `once`, \
                     `key`, `streaming`",
                ));
            }
        }
        Ok(())
    })?;
    if streaming && safety == Some(Safety::Once) {
        return Err(Error::new_spanned(
            attribute,
            "a reply of many items is not recorded: a `streaming` method is not `once`",
        ));
    }
    let missing =
        |option: &str| Error::new_spanned(attribute, format!("a method needs its `{option}`"));
    Ok(Options {
        id: id.ok_or_else(|| missing("id = ..."))?,
        safety: safety.unwrap_or(Safety::AtMostOnce),
        streaming,
        key,
        deadline: deadline.ok_or_else(|| missing("deadline = \"...\""))?,
    })
}

#[cfg(test)]
mod tests;
