//! The macro that makes a section of settings, and how a section describes itself: key, meaning and default of each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::Value;

/// One setting as a person meets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Parts separated by dots.
    pub key: String,
    pub about: String,
    /// Its type is the setting's type.
    pub default: Value,
}

/// Something with settings in it, or one itself.
pub trait Section {
    fn describe(&self, key: &str, about: &[&str], out: &mut Vec<Described>);
}

/// Every setting of a role, in the order of the file.
pub fn described<C: Section + Default>() -> Vec<Described> {
    let mut out = Vec::new();
    C::default().describe("", &[], &mut out);
    out
}

pub(super) fn join(key: &str, field: &str) -> String {
    match key {
        "" => field.to_string(),
        _ => format!("{key}.{field}"),
    }
}

macro_rules! section {
    ($(#[doc = $about:literal])+ pub struct $name:ident {
        $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr,)+
    }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[doc = $doc])+ pub $field: $type,)+ }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default,)+ }
            }
        }

        impl $crate::config::Section for $name {
            fn describe(&self, key: &str, _about: &[&str], out: &mut Vec<$crate::config::Described>) {
                $(
                    let field = $crate::config::section::join(key, stringify!($field));
                    self.$field.describe(&field, &[$($doc),+], out);
                )+
            }
        }
    };
}
pub(super) use section;

macro_rules! leaf {
    ($($type:ty: $self:ident => $value:expr;)+) => {
        $(impl Section for $type {
            fn describe(&self, key: &str, about: &[&str], out: &mut Vec<Described>) {
                let $self = self;
                let lines: Vec<&str> = about.iter().map(|line| line.trim()).collect();
                out.push(Described { key: key.to_string(), about: lines.join(" "), default: $value });
            }
        })+
    };
}

leaf! {
    u64: number => Value::Integer(i64::try_from(*number).unwrap_or(i64::MAX));
    u32: number => Value::Integer(i64::from(*number));
    bool: flag => Value::Boolean(*flag);
    String: text => Value::String(text.clone());
    PathBuf: path => Value::String(path.display().to_string());
    Vec<String>: list => Value::Array(list.iter().cloned().map(Value::String).collect());
    BTreeMap<String, String>: map =>
        Value::Table(map.iter().map(|(k, v)| (k.clone(), Value::String(v.clone()))).collect());
}
