//! The request pipeline that every HTTP version goes through: match → filters → pick → exchange → response.

pub(crate) mod cdn_loop;
pub(crate) mod grpc;
pub(crate) mod grpc_web;
pub(crate) mod relay;
pub(crate) mod retry;
pub(crate) mod route;
pub(crate) mod tunnel;
