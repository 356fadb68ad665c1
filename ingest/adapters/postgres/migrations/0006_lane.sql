-- How messages leave the held lane: judged again in order, some at a time; or unjudged, when their time is over. And what a
-- second person has to approve.

-- Some at a time, each look-up goes on where the last one ended.
create index on store.held (device_no, partition, topic_no, kafka_offset);
create index on store.held (reason, partition, topic_no, kafka_offset);

alter table store.partition_lease add column judged_to timestamptz;  -- the newest received_at that was judged: the broker's clock

-- What one person wants, and another has to want as well.
create table store.proposal (
    proposal_no integer generated always as identity primary key,
    act         text not null check (act in ('release', 'revoke', 'rejudge')),
    subject     text not null,                       -- a device's id, or else for what reason messages are held
    actor       text not null,
    why         text not null,
    proposed_at timestamptz not null default clock_timestamp(),
    stale_at    timestamptz not null,                -- from then on it can only be made anew
    outcome     text check (outcome in ('approved', 'withdrawn')),
    ended_by    text,
    ended_why   text,
    ended_at    timestamptz,
    check ((outcome is null) = (ended_at is null) and (outcome is null) = (ended_by is null) and (outcome is null) = (ended_why is null))
);
create index on store.proposal (act, subject) where outcome is null;

create view weighbridge.proposal as
select proposal_no, act, subject, actor, why, proposed_at, stale_at,
       coalesce(outcome, case when stale_at <= now() then 'stale' else 'open' end) as state, ended_by, ended_why, ended_at
from store.proposal;
