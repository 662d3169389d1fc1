//! Signatures: who stands behind a component.
//!
//! A signature is a custom section at the very end of a component or module, so a signed file is
//! still one file that every tool reads. It covers every byte before the first signature, so several
//! people can sign the same bytes. What is read here comes from strangers: nothing is looked at but
//! the frames of the outermost sections, and a signature has exactly one form.

use std::{collections::BTreeSet, fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use wasmparser::BinaryReader;

use crate::blob::Digest;

/// Name of the section.
const SECTION: &str = "wasmjob:signature";
/// The only version of a signature so far.
const VERSION: u8 = 1;
/// What is signed begins with this, so that no signature made for anything else fits.
const DOMAIN: &[u8] = b"wasmjob component signature v1\0";
const KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;
/// Version, public key, signature.
const PAYLOAD_BYTES: usize = 1 + KEY_BYTES + SIGNATURE_BYTES;
/// The whole section: id, length, length of the name, name, payload. Both lengths are below 128.
const SECTION_BYTES: usize = 3 + SECTION.len() + PAYLOAD_BYTES;
/// What the section says of its length, and of its name's.
const LENGTH: u8 = 115;
const NAME_LENGTH: u8 = 17;
const _: () = assert!(LENGTH as usize + 2 == SECTION_BYTES && NAME_LENGTH as usize == SECTION.len());
/// Signatures in one file. Checking one takes a fraction of a millisecond, and a file of the largest
/// size could hold a million.
const SIGNATURES_MAX: usize = 16;
/// `\0asm`, a version and a layer.
const HEADER_BYTES: usize = 8;

const PUBLIC_PREFIX: &str = "ed25519:";
const PRIVATE_PREFIX: &str = "ed25519-private:";

/// Whoever has its private half can sign; written `ed25519:` and base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// Whether this key made `signature` for `message`. Keys and signatures that fit many messages
    /// are wrong for all.
    fn made(&self, signature: &[u8; SIGNATURE_BYTES], message: &[u8]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.starts_with(PRIVATE_PREFIX) {
            return Err(KeyError::Private);
        }
        let bytes = key_bytes(text, PUBLIC_PREFIX).ok_or(KeyError::NotPublic)?;
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(PublicKey(bytes)),
            _ => Err(KeyError::Unusable),
        }
    }
}

/// What makes signatures; written `ed25519-private:` and base64. Its text is shown only where it
/// is asked for.
#[derive(Clone)]
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    /// The key made of 32 random bytes.
    #[must_use]
    pub fn from_seed(seed: &[u8; KEY_BYTES]) -> Self {
        PrivateKey(SigningKey::from_bytes(seed))
    }

    /// What others check its signatures with.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The key as text, for a private file.
    #[must_use]
    pub fn to_secret_text(&self) -> String {
        format!("{PRIVATE_PREFIX}{}", STANDARD.encode(self.0.to_bytes()))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.starts_with(PUBLIC_PREFIX) {
            return Err(KeyError::Public);
        }
        key_bytes(text, PRIVATE_PREFIX).map(|seed| Self::from_seed(&seed)).ok_or(KeyError::NotPrivate)
    }
}

fn key_bytes(text: &str, prefix: &str) -> Option<[u8; KEY_BYTES]> {
    STANDARD.decode(text.strip_prefix(prefix)?).ok()?.try_into().ok()
}

/// Why a text is not the key that is wanted. None of them repeats the text, which may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Anything else where a public key belongs.
    #[error("not a public key: `ed25519:` and 44 characters of base64 are wanted, as `wasmjob key new` prints them")]
    NotPublic,
    /// Anything else where a private key belongs.
    #[error("not a private key as `wasmjob key new` writes it")]
    NotPrivate,
    /// A private key where everybody can read it.
    #[error("that is a private key: keep it to yourself; `wasmjob key show FILE` prints the public one")]
    Private,
    /// A public key where a private one is needed.
    #[error("that is a public key; signing needs the private one")]
    Public,
    /// Bytes that are no key, or one whose signatures prove nothing.
    #[error("not a usable ed25519 key")]
    Unusable,
}

/// What is wrong with the signatures of a component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not a row of sections, so it cannot be said where signatures would be.
    #[error("it is not WebAssembly, or cut short, at byte {at}")]
    NotWasm {
        /// Where that shows.
        at: usize,
    },
    /// A section with the right name and the wrong content.
    #[error("the signature at byte {at} is damaged")]
    Damaged {
        /// Where it begins.
        at: usize,
    },
    /// Made by a later wasmjob.
    #[error("the signature at byte {at} has version {version}, and only {VERSION} is known here")]
    Version {
        /// Where it begins.
        at: usize,
        /// Its version.
        version: u8,
    },
    /// Bytes that the signatures before them do not cover.
    #[error("at byte {at} something follows its signatures that is none")]
    Followed {
        /// Where that begins.
        at: usize,
    },
    /// More than is checked.
    #[error("it has more than {SIGNATURES_MAX} signatures")]
    TooMany,
    /// The signature was made by another key or for other bytes.
    #[error("its signature by {key} is wrong: these are not the bytes that were signed")]
    Wrong {
        /// The key that is said to have made it.
        key: PublicKey,
    },
}

/// A component that is not run, because nobody who is trusted signed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{digest} is refused: {reason}; sign it with `wasmjob sign` and a key that `trusted_keys` of the node names")]
pub struct Untrusted {
    /// The component.
    pub digest: Digest,
    /// What about its signatures is not enough.
    pub reason: UntrustedReason,
}

/// What about the signatures of a component is not enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UntrustedReason {
    /// There are none.
    #[error("it is unsigned")]
    Unsigned,
    /// They are right, and by others.
    #[error("it is signed by {}, not by a trusted key", listed(keys))]
    Others {
        /// Who signed it.
        keys: Vec<PublicKey>,
    },
    /// One of them is wrong.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

fn listed(keys: &[PublicKey]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The keys whose signatures let a component run. None: every component may, signed or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedKeys(BTreeSet<PublicKey>);

impl TrustedKeys {
    /// Whether any component may run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this key is one of them.
    #[must_use]
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.0.contains(key)
    }

    /// Whether a component may run. Looks at every byte, so call it where that is allowed.
    pub fn check(&self, digest: Digest, component: &[u8]) -> Result<(), Untrusted> {
        if self.is_empty() {
            return Ok(());
        }
        self.check_signatures(component).map_err(|reason| Untrusted { digest, reason })
    }

    fn check_signatures(&self, component: &[u8]) -> Result<(), UntrustedReason> {
        let signed = Signed::read(component)?;
        if let Some(wrong) = signed.checked().find(|(_, right)| !right) {
            return Err(SignatureError::Wrong { key: wrong.0 }.into());
        }
        let keys: Vec<_> = signed.signatures.iter().map(|signature| signature.key).collect();
        match keys.iter().any(|key| self.contains(key)) {
            true => Ok(()),
            false if keys.is_empty() => Err(UntrustedReason::Unsigned),
            false => Err(UntrustedReason::Others { keys }),
        }
    }

    /// What compiled code depends on: code that was kept under other keys was not checked with these.
    pub(crate) fn to_environment(&self) -> Vec<u8> {
        self.0.iter().flat_map(|key| key.0).collect()
    }
}

impl FromIterator<PublicKey> for TrustedKeys {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        TrustedKeys(keys.into_iter().collect())
    }
}

/// The keys that signed a component, and for each whether its signature is right.
/// Errors: why that cannot be said.
pub fn signatures(component: &[u8]) -> Result<Vec<(PublicKey, bool)>, SignatureError> {
    Ok(Signed::read(component)?.checked().collect())
}

/// `component` with a signature by `key` after those it has. One by this key that is there already
/// is enough: then nothing changes.
/// Errors: what is wrong with the component or the signatures it has.
pub fn sign(component: &[u8], key: &PrivateKey) -> Result<Vec<u8>, SignatureError> {
    let signed = Signed::read(component)?;
    if let Some((key, _)) = signed.checked().find(|(_, right)| !right) {
        return Err(SignatureError::Wrong { key });
    }
    let mut bytes = component.to_vec();
    if signed.signatures.iter().any(|signature| signature.key == key.public()) {
        return Ok(bytes);
    }
    if signed.signatures.len() == SIGNATURES_MAX {
        return Err(SignatureError::TooMany);
    }
    let signature = Signature { key: key.public(), bytes: key.0.sign(&message(signed.content)).to_bytes() };
    bytes.extend_from_slice(&signature.to_section());
    Ok(bytes)
}

/// What is signed: bytes of any length, named by their hash.
fn message(content: &[u8]) -> Vec<u8> {
    [DOMAIN, blake3::hash(content).as_bytes()].concat()
}

/// A component taken apart into what is signed and the signatures after it.
struct Signed<'a> {
    content: &'a [u8],
    signatures: Vec<Signature>,
}

/// A signature as it was found: that the key made it is still to be shown.
struct Signature {
    key: PublicKey,
    bytes: [u8; SIGNATURE_BYTES],
}

impl<'a> Signed<'a> {
    /// Walks over the frames of the outermost sections.
    fn read(component: &'a [u8]) -> Result<Self, SignatureError> {
        let mut at = HEADER_BYTES;
        if !component.starts_with(b"\0asm") || component.len() < at {
            return Err(SignatureError::NotWasm { at: 0 });
        }
        let (mut content, mut signatures) = (None, Vec::new());
        while at < component.len() {
            let (section, is_signature) = section_at(component, at).ok_or(SignatureError::NotWasm { at })?;
            if is_signature {
                content.get_or_insert(at);
                if signatures.len() == SIGNATURES_MAX {
                    return Err(SignatureError::TooMany);
                }
                signatures.push(Signature::from_section(section, at)?);
            } else if content.is_some() {
                return Err(SignatureError::Followed { at });
            }
            at += section.len();
        }
        let (content, _) = component.split_at(content.unwrap_or(component.len()));
        Ok(Signed { content, signatures })
    }

    /// Each key, and whether its signature is right.
    fn checked(&self) -> impl Iterator<Item = (PublicKey, bool)> {
        // Hashing is for nothing where nothing is signed.
        let message = if self.signatures.is_empty() { Vec::new() } else { message(self.content) };
        self.signatures.iter().map(move |signature| (signature.key, signature.key.made(&signature.bytes, &message)))
    }
}

/// The section that begins at this byte, frame included, and whether it is named as a signature.
fn section_at(component: &[u8], at: usize) -> Option<(&[u8], bool)> {
    let rest = component.get(at..)?;
    let mut reader = BinaryReader::new(rest, 0);
    let id = reader.read_u8().ok()?;
    let length = reader.read_var_u32().ok()?;
    let body = reader.read_bytes(length as usize).ok()?;
    let section = rest.get(..reader.original_position())?;
    let is_signature = id == 0 && BinaryReader::new(body, 0).read_string().is_ok_and(|name| name == SECTION);
    Some((section, is_signature))
}

impl Signature {
    /// Reads a section named as a signature. It has one form only: lengths could be written in other
    /// ways, and two files that differ in nothing that matters would both be signed.
    fn from_section(section: &[u8], at: usize) -> Result<Self, SignatureError> {
        let damaged = SignatureError::Damaged { at };
        let framed = section.strip_prefix(frame().as_slice()).ok_or(damaged.clone());
        // A later version may have another length, which shows in the frame.
        let (version, rest) = match framed {
            Ok(payload) => payload.split_first().ok_or(damaged.clone())?,
            Err(damaged) => return Err(other_version(section, at).unwrap_or(damaged)),
        };
        if *version != VERSION {
            return Err(SignatureError::Version { at, version: *version });
        }
        let (key, bytes) = rest.split_at_checked(KEY_BYTES).ok_or(damaged.clone())?;
        let key = PublicKey(key.try_into().map_err(|_| damaged.clone())?);
        Ok(Signature { key, bytes: bytes.try_into().map_err(|_| damaged)? })
    }

    fn to_section(&self) -> Vec<u8> {
        [frame().as_slice(), &[VERSION], &self.key.0, &self.bytes].concat()
    }
}

/// Whether a section that is not framed as ours is a whole one of another version.
fn other_version(section: &[u8], at: usize) -> Option<SignatureError> {
    let name = section.windows(SECTION.len()).position(|window| window == SECTION.as_bytes())?;
    let version = *section.get(name + SECTION.len())?;
    (version != VERSION).then_some(SignatureError::Version { at, version })
}

/// How every section of ours begins: a custom section, its length, its name.
fn frame() -> Vec<u8> {
    [&[0, LENGTH, NAME_LENGTH], SECTION.as_bytes()].concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
mod tests {
    use super::*;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::from_seed(&[seed; 32])
    }

    fn trusting(keys: &[&PrivateKey]) -> TrustedKeys {
        keys.iter().map(|key| key.public()).collect()
    }

    fn check(trusted: &TrustedKeys, bytes: &[u8]) -> Result<(), UntrustedReason> {
        trusted.check(Digest::of(bytes), bytes).map_err(|untrusted| untrusted.reason)
    }

    fn module() -> Vec<u8> {
        wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap()
    }

    /// A custom section with this content after its name.
    fn custom(name: &str, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(1 + name.len() + content.len()).unwrap();
        [&[0, length, name.len() as u8], name.as_bytes(), content].concat()
    }

    #[test]
    fn what_was_signed_by_a_trusted_key_may_run_and_is_still_the_same_program() {
        let (ours, other) = (key(1), key(2));
        for bytes in [module(), wat::parse_str("(component (core module))").unwrap(), b"\0asm\x01\0\0\0".to_vec()] {
            let signed = sign(&bytes, &ours).unwrap();
            assert_eq!(signed.len(), bytes.len() + SECTION_BYTES);
            assert!(signed.starts_with(&bytes));
            wasmparser::Validator::new().validate_all(&signed).unwrap();
            assert_eq!(check(&trusting(&[&ours]), &signed), Ok(()));
            assert_eq!(check(&trusting(&[&other, &ours]), &signed), Ok(()));
            assert_eq!(check(&TrustedKeys::default(), &bytes), Ok(()));
            let others = UntrustedReason::Others { keys: vec![ours.public()] };
            assert_eq!(check(&trusting(&[&other]), &signed), Err(others));
            assert_eq!(check(&trusting(&[&ours]), &bytes), Err(UntrustedReason::Unsigned));
        }
    }

    #[test]
    fn several_keys_can_sign_and_signing_twice_changes_nothing() {
        let (first, second) = (key(1), key(2));
        let both = sign(&sign(&module(), &first).unwrap(), &second).unwrap();
        for again in [&first, &second] {
            assert_eq!(sign(&both, again).unwrap(), both);
            assert_eq!(check(&trusting(&[again]), &both), Ok(()));
        }
        assert_eq!(signatures(&both).unwrap(), [(first.public(), true), (second.public(), true)]);
        let mut many = module();
        for seed in 0..SIGNATURES_MAX {
            many = sign(&many, &key(seed as u8)).unwrap();
        }
        assert_eq!(sign(&many, &key(99)), Err(SignatureError::TooMany));
        let one_more = [many.as_slice(), &many[many.len() - SECTION_BYTES..]].concat();
        assert_eq!(check(&trusting(&[&key(0)]), &one_more), Err(SignatureError::TooMany.into()));
    }

    #[test]
    fn no_byte_can_be_changed_removed_or_added() {
        let ours = key(1);
        let (trusted, signed) = (trusting(&[&ours]), sign(&module(), &ours).unwrap());
        for at in 0..signed.len() {
            for bit in 0..8 {
                let mut changed = signed.clone();
                changed[at] ^= 1 << bit;
                // The version of WebAssembly is signed like every other byte.
                assert!(check(&trusted, &changed).is_err(), "byte {at}, bit {bit}");
            }
            assert!(check(&trusted, &signed[..at]).is_err(), "cut at byte {at}");
            let more = [&signed[..at], &[0], &signed[at..]].concat();
            assert!(check(&trusted, &more).is_err(), "one more byte at {at}");
        }
        assert!(check(&trusted, &[signed.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn a_signature_is_worth_nothing_on_other_bytes_or_in_another_place() {
        let ours = key(1);
        let trusted = trusting(&[&ours]);
        let (bytes, signed) = (module(), sign(&module(), &ours).unwrap());
        let section = &signed[bytes.len()..];
        let other = [bytes.as_slice(), &custom("other", b"x")].concat();
        let wrong = SignatureError::Wrong { key: ours.public() };
        assert_eq!(check(&trusted, &[other.as_slice(), section].concat()), Err(wrong.clone().into()));
        assert_eq!(sign(&[other.as_slice(), section].concat(), &ours), Err(wrong));
        let followed = [signed.as_slice(), &custom("other", b"x")].concat();
        assert_eq!(check(&trusted, &followed), Err(SignatureError::Followed { at: signed.len() }.into()));
        let before = [&bytes[..HEADER_BYTES], section, &bytes[HEADER_BYTES..]].concat();
        assert_eq!(check(&trusted, &before), Err(SignatureError::Followed { at: HEADER_BYTES + SECTION_BYTES }.into()));
        // In the data of another section it is no section.
        let hidden = [&bytes[..], &[0, SECTION_BYTES as u8 + 2, 1, b'x'], section].concat();
        assert_eq!(check(&trusted, &hidden), Err(UntrustedReason::Unsigned));
    }

    #[test]
    fn hostile_sections_are_refused_with_the_reason() {
        let (bytes, ours) = (module(), key(1));
        let at = bytes.len();
        let reason = |section: &[u8]| {
            let all = [bytes.as_slice(), section].concat();
            assert_eq!(signatures(&all).is_err(), check(&trusting(&[&ours]), &all).is_err());
            signatures(&all).unwrap_err()
        };
        let signed = sign(&bytes, &ours).unwrap();
        let payload = &signed[signed.len() - PAYLOAD_BYTES..];
        assert_eq!(reason(&custom(SECTION, b"")), SignatureError::Damaged { at });
        assert_eq!(reason(&custom(SECTION, &payload[..96])), SignatureError::Damaged { at });
        assert_eq!(reason(&custom(SECTION, &[payload, b"x"].concat())), SignatureError::Damaged { at });
        for version in [0, 2, 255] {
            let later = [&[version], &payload[1..]].concat();
            assert_eq!(reason(&custom(SECTION, &later)), SignatureError::Version { at, version });
            assert_eq!(reason(&custom(SECTION, &[version])), SignatureError::Version { at, version });
        }
        // Lengths beyond the end, lengths of five bytes and more, lengths written in a longer way.
        for hostile in
            [&[0, 0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f], &[0], &[0, 5, 1]]
        {
            assert_eq!(reason(hostile), SignatureError::NotWasm { at });
        }
        let longer = [&[0, 0x80 | (SECTION_BYTES - 2) as u8, 0], &signed[at + 2..]].concat();
        assert_eq!(reason(&longer), SignatureError::Damaged { at });
        // Names that are cut off or no text are those of other sections.
        for other in [&[0, 3, 0xff, 0xff, 0x7f][..], &[0, 2, 1, 0xff], &[0, 1, 0]] {
            let all = [bytes.as_slice(), other].concat();
            assert_eq!(signatures(&all), Ok(vec![]));
        }
        for no_wasm in [&b""[..], b"\0asm", b"#!/bin/sh", b"(module)"] {
            assert_eq!(signatures(no_wasm), Err(SignatureError::NotWasm { at: 0 }));
        }
    }

    #[test]
    fn a_key_that_fits_every_message_is_refused() {
        let all_zero = [0_u8; 32];
        let mut identity = all_zero;
        identity[0] = 1;
        let bytes = module();
        for weak in [all_zero, identity] {
            let text = format!("{PUBLIC_PREFIX}{}", STANDARD.encode(weak));
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError::Unusable));
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&identity);
            let forged = Signature { key: PublicKey(weak), bytes: signature };
            let forged = [bytes.as_slice(), &forged.to_section()].concat();
            assert_eq!(signatures(&forged), Ok(vec![(PublicKey(weak), false)]));
        }
    }

    #[test]
    fn keys_are_read_as_they_are_written_and_a_mix_up_is_named() {
        let private = key(7);
        let (public, secret) = (private.public().to_string(), private.to_secret_text());
        assert_eq!(public.parse(), Ok(private.public()));
        assert_eq!(secret.parse::<PrivateKey>().unwrap().public(), private.public());
        assert_eq!(secret.parse::<PublicKey>(), Err(KeyError::Private));
        assert_eq!(public.parse::<PrivateKey>().unwrap_err(), KeyError::Public);
        assert_eq!("ed25519:AAAA".parse::<PublicKey>(), Err(KeyError::NotPublic));
        assert_eq!(public.to_uppercase().parse::<PublicKey>(), Err(KeyError::NotPublic));
        assert_eq!("".parse::<PrivateKey>().unwrap_err(), KeyError::NotPrivate);
        assert!(!format!("{private:?}").contains(&secret));
    }
}
