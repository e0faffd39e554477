//! Who gets in: TLS, client certificates, users, and who may touch what.
