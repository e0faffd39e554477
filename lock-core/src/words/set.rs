//! [`set_of`]: sets of the variants of an enum, as one byte.

/// Declares a set of the variants of an enum that has at most eight, `ALL` of them as a constant,
/// and a `Display`. In configuration the set is a list of words.
///
/// It is a macro since a set is made in constants, where no trait tells the bit of a variant.
macro_rules! set_of {
    ($(#[$doc:meta])* $set:ident of $item:ident, $items:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $set(u8);

        impl $set {
            #[doc = concat!("No ", $items, ".")]
            pub const NONE: $set = $set(0);
            #[doc = concat!("Every one of the ", $items, "s.")]
            pub const ALL: $set = $set::of(&$item::ALL);

            #[doc = concat!("The set of these ", $items, "s.")]
            pub const fn of(items: &[$item]) -> $set {
                let (mut bits, mut at) = (0, 0);
                while at < items.len() {
                    bits |= 1 << items[at] as u8;
                    at += 1;
                }
                $set(bits)
            }

            #[doc = concat!("True if every ", $items, " of `other` is in this set.")]
            pub const fn contains(self, other: $set) -> bool {
                self.0 & other.0 == other.0
            }

            #[doc = concat!("True if no ", $items, " is in this set.")]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            #[doc = concat!("The ", $items, "s of this set, in the order of `ALL`.")]
            pub fn iter(self) -> impl Iterator<Item = $item> {
                $item::ALL.into_iter().filter(move |item| self.contains((*item).into()))
            }
        }

        impl From<$item> for $set {
            fn from(item: $item) -> $set {
                $set::of(&[item])
            }
        }

        impl From<Vec<$item>> for $set {
            fn from(items: Vec<$item>) -> $set {
                $set::of(&items)
            }
        }

        impl From<$set> for Vec<$item> {
            fn from(set: $set) -> Vec<$item> {
                set.iter().collect()
            }
        }

        impl std::ops::BitOr for $set {
            type Output = $set;

            fn bitor(self, other: $set) -> $set {
                $set(self.0 | other.0)
            }
        }

        impl std::ops::Sub for $set {
            type Output = $set;

            fn sub(self, other: $set) -> $set {
                $set(self.0 & !other.0)
            }
        }

        impl serde::Serialize for $set {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.iter())
            }
        }

        impl<'de> serde::Deserialize<'de> for $set {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$set, D::Error> {
                Vec::<$item>::deserialize(deserializer).map(Into::into)
            }
        }

        impl std::fmt::Display for $set {
            #[doc = concat!("The ", $items, "s with commas, or `–` for none.")]
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let words: Vec<_> = self.iter().map(|item| item.to_string()).collect();
                f.pad(&if words.is_empty() { "–".to_owned() } else { words.join(", ") })
            }
        }

        impl std::fmt::Debug for $set {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_set().entries(self.iter()).finish()
            }
        }
    };
}

pub(crate) use set_of;
