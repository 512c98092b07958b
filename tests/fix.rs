//! `nodeName` is rewritten in the text, and nothing else is touched.

mod fix {
    mod layouts;
    mod refusals;
}
