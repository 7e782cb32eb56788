//! The configuration file: TOML, every key optional, none unknown.

use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;

use super::{AwsOptions, CloudKind, Environment};
use crate::error::Error;

/// What the file says.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) cloud: Option<CloudKind>,
    #[serde(default)]
    pub(super) aws: AwsOptions,
}

impl File {
    /// The file that was named, or the usual one where there is one.
    pub(super) fn load(named: Option<&Path>, environment: &Environment) -> Result<Self, Error> {
        let usual = environment.config_file();
        let Some(path) = named.or(usual.as_deref()) else { return Ok(Self::default()) };
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => Ok(Self::default()),
            Err(error) => {
                Err(Error::Invalid(format!("cannot read the configuration file {}: {error}", path.display())))
            }
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let wrong = |why: String| Error::Invalid(format!("the configuration file {}: {why}", path.display()));
        toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        File::parse(text, Path::new("/c.toml")).unwrap_err().to_string()
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            cloud = "aws"
            [aws]
            region = "eu-west-1"
            image = "ami-1"
            subnet = "subnet-1"
            security_groups = ["sg-1", "sg-2"]
            instance_profile = "node"
            instance_type = "c7i.large"
            bucket = "my-bucket"
            prefix = "clusters/"
            advertise = "10.0.0.5"
            listen = "0.0.0.0"
            port = 7470
            document_certificate = "/c.pem"
            endpoint = "http://127.0.0.1:1"
            s3_endpoint = "http://127.0.0.1:2"
            shared_cores = true
        "#;
        let file = File::parse(text, Path::new("/c.toml")).unwrap();
        assert_eq!(file.cloud, Some(CloudKind::Aws));
        assert_eq!(file.aws.given().len(), text.matches(" = ").count() - 1, "{:?}", file.aws.given());
    }

    #[test]
    fn what_is_unknown_or_of_another_type_is_refused_by_name_and_file() {
        for (text, words) in [
            ("colour = 1", &["/c.toml", "colour", "line 1"][..]),
            ("[aws]\nregoin = \"x\"", &["/c.toml", "regoin", "line 2", "region"]),
            ("[aws]\nsecurity_groups = \"sg-1\"", &["security_groups", "sequence"]),
            ("[aws]\nport = \"7470\"", &["port", "7470"]),
            ("[aws]\nport = 70000", &["port", "70000"]),
            ("[aws]\nadvertise = \"here\"", &["advertise", "here"]),
            ("cloud = \"azure\"", &["azure", "local", "aws"]),
            ("[aws\n", &["/c.toml", "line 1"]),
        ] {
            let said = refused(text);
            for word in words {
                assert!(said.contains(word), "no {word:?} in {said}");
            }
        }
    }

    #[test]
    fn only_a_file_that_was_named_must_be_there() {
        let environment = Environment { config_home: Some("/no/such".into()), ..Environment::default() };
        assert_eq!(File::load(None, &environment).unwrap(), File::default());
        let error = File::load(Some(Path::new("/no/such.toml")), &environment).unwrap_err().to_string();
        assert!(error.contains("/no/such.toml"), "{error}");
    }
}
