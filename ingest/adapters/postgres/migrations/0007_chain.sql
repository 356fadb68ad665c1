-- By what a changed message is found: a link for each record, in the row of its batch, and a seal that all of them lead to.
-- What was committed before this has neither; a verification says from where on there are any.

alter table store.batch
    add column links bytea,                          -- 35 bytes for each record, in the order of offsets (core/seal.py)
    add column seal  bytea,                          -- follows from the seal of the batch before and these links
    add check ((links is null) = (seal is null)),
    add check (length(seal) = 32 and length(links) = 35 * (accepted + duplicate + held + refused));
alter table store.batch alter column links set storage external;  -- hashes do not compress

-- Of the last batch; moved by the same update as next_offset, so a partition has one.
alter table store.partition_lease add column seal bytea not null
    default '\x0000000000000000000000000000000000000000000000000000000000000000' check (length(seal) = 32);

-- Messages that left the held lane have another row now, and so another link. A chain of its own; number 0 begins it.
create table store.relink (
    relink_no    bigint primary key,
    topic_no     smallint not null references store.topic,
    partition    integer not null,
    offsets      bigint[] not null,                  -- in order
    links        bytea not null,
    judged_by    integer not null,
    seal         bytea not null check (length(seal) = 32),
    relinked_at  timestamptz not null default clock_timestamp(),
    check (length(links) = 35 * cardinality(offsets))
);
create index on store.relink (topic_no, partition);
