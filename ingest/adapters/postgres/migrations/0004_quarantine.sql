-- What speaks against devices, and what followed from it.

alter table store.device_state drop constraint device_state_standing_check;
alter table store.device_state
    add check (standing in ('trusted', 'watched', 'quarantined', 'released', 'revoked')),
    add column suspicion    integer not null default 0,
    add column suspicion_at timestamptz not null default 'epoch',    -- by the broker's clock
    add column software     text not null default '';                -- of its highest accepted message
create index on store.device_state (software);       -- changes with an update of the device, so rows stay in place otherwise

-- Each piece of evidence that verified, once for one content.
create table store.accusation (
    device_no    bigint not null references store.device,
    digest       bytea not null,                     -- of the content that speaks against it
    evidence     text not null,
    weight       integer not null,
    before       text not null,                      -- the device's standing
    after        text not null,
    spared       boolean not null,                   -- not quarantined only because much of its cohort was
    tenant_no    integer not null,
    software     text not null,
    epoch        bigint not null,
    seq          bigint not null,
    topic_no     smallint not null,
    partition    integer not null,
    kafka_offset bigint not null,
    received_at  timestamptz not null,
    judged_by    integer not null,
    primary key (device_no, digest)
);
create index on store.accusation (tenant_no, software, received_at) where after = 'quarantined' and before <> 'quarantined';

-- What people decided of a device's standing; what the policy did stands in store.accusation.
create table store.pardon (
    device_no  bigint not null references store.device,
    before     text not null,
    after      text not null,
    actor      text not null,
    reason     text not null,
    decided_at timestamptz not null default clock_timestamp()
);
create index on store.pardon (device_no);

create view weighbridge.accusation as
select d.device_id, n.tenant, a.evidence, a.weight, a.before, a.after, a.spared, a.software, a.epoch, a.seq, t.topic, t.incarnation,
       a.partition, a.kafka_offset, a.received_at, j.policy_digest, a.digest
from store.accusation a
join store.device d using (device_no)
join store.tenant n using (tenant_no)
join store.topic t using (topic_no)
join store.judged_by j using (judged_by);

-- Each change of a device's standing: by whom, and why.
create view weighbridge.transition as
select d.device_id, x.before, x.after, x.actor, x.why, x.at, x.policy_digest, x.digest
from (
    select a.device_no, a.before, a.after, 'policy' as actor, a.evidence as why, a.received_at as at, j.policy_digest, a.digest
    from store.accusation a join store.judged_by j using (judged_by) where a.before <> a.after
    union all
    select p.device_no, p.before, p.after, p.actor, p.reason, p.decided_at, null, null from store.pardon p
) x join store.device d using (device_no);

create or replace view weighbridge.device as
select d.device_id, n.tenant, v.vehicle_id, s.standing, s.epoch, s.key_version, s.highest, s.accepted,
       case when s.accepted = 0 then 0 else s.highest - s.lowest + 1 - s.accepted end as missing, s.held, d.enrolled_at,
       r.device_id as replaced_by, d.decommissioned_at, s.suspicion, s.software
from store.device d
join store.device_state s using (device_no)
join store.vehicle v on v.vehicle_no = d.vehicle_no
join store.tenant n using (tenant_no)
left join store.device r on r.device_no = d.replaced_by;

-- Decisions that held messages are to be judged again: of one device, or all that are held for one reason.
create table store.release (
    release_no integer generated always as identity primary key,
    device_no  bigint references store.device,
    reason     text,
    actor      text not null,
    why        text not null,
    decided_at timestamptz not null default clock_timestamp(),
    accepted   bigint not null default 0,            -- what has come of it so far
    duplicate  bigint not null default 0,
    held       bigint not null default 0,
    refused    bigint not null default 0,
    done_at    timestamptz,
    check ((device_no is null) <> (reason is null))
);
alter table store.held add column release_no integer;  -- the last decision under which it was judged again, and held again

create view weighbridge.release as
select r.release_no, d.device_id, r.reason, r.actor, r.why, r.decided_at, r.accepted, r.duplicate, r.held, r.refused, r.done_at
from store.release r left join store.device d using (device_no);

-- What somebody is to be told of: one row for an alert, written with its cause, and relayed to a topic.
alter table store.device_state add column clock_off_since timestamptz;  -- by the broker's clock; null: it is well
alter table store.partition_lease
    add column strangers_window bigint not null default 0,
    add column strangers        bytea not null default '';  -- a bitmap of the ids that nobody has, named in that window

create table store.alert (
    alert_id     text primary key,                   -- follows from what it is about: raised again, it is the same
    alert_no     bigint not null generated always as identity unique,  -- of what a device signed, in the order of the commits; with gaps
    kind         text not null,
    subject      text not null,                      -- a device's id, or else what the kind says
    tenant_no    integer,                            -- null: nobody signed it
    raised_at    timestamptz not null,               -- by the broker's clock
    topic_no     smallint not null,
    partition    integer not null,
    kafka_offset bigint not null,
    evidence     jsonb not null,
    judged_by    integer not null,
    written_at   timestamptz not null default clock_timestamp(),
    published_at timestamptz                         -- null: the topic may not have it yet
);
create index on store.alert (alert_no) where published_at is null;

create view weighbridge.alert as
select a.alert_no, a.alert_id, a.kind, a.subject, d.device_id, n.tenant, a.raised_at, t.topic, t.incarnation, a.partition, a.kafka_offset,
       a.evidence, j.policy_digest, a.written_at, a.published_at
from store.alert a
join store.topic t using (topic_no)
join store.judged_by j using (judged_by)
left join store.device d on d.device_id = a.subject
left join store.vehicle v on v.vehicle_no = d.vehicle_no
left join store.tenant n on n.tenant_no = coalesce(a.tenant_no, v.tenant_no);
