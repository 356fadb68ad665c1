-- What a batch changes of a row of `store.device_state`: such rows come as one list of these. Before, they came in a
-- temporary table of each connection: of some hundreds of rows that took half again of the server's time, two questions
-- more, and, as no VACUUM may touch such a table, a worker that lived for months kept the database from being frozen.

create type store.changed_device as (
    device_no       bigint,
    held            integer,
    held_bytes      bigint,
    boots           bytea,
    seen            text,         -- an int8multirange, as text
    seen_floor      bigint,
    lowest          bigint,
    highest         bigint,
    accepted        bigint,
    standing        text,
    suspicion       integer,
    suspicion_at    timestamptz,
    software        text,
    clock_off_since timestamptz,
    rate_milli      bigint,
    rate_at         timestamptz,
    rolled          bytea
);
