-- The store. Tables live in schema "store" and may change; people and checkers read the views of schema "weighbridge".
-- A released migration is never edited: a change is a new file.

create schema if not exists store;
create schema weighbridge;

-- Registry ------------------------------------------------------------------------------------------------------------

create table store.tenant (
    tenant_no integer generated always as identity primary key,
    tenant    text not null unique
);

create table store.vehicle (
    vehicle_no bigint generated always as identity primary key,
    vehicle_id text not null unique,
    tenant_no  integer not null references store.tenant
);

create table store.device (
    device_no   bigint generated always as identity primary key,
    device_id   text not null unique,
    vehicle_no  bigint not null references store.vehicle,
    enrolled_at timestamptz not null default now()
);

create table store.device_key (
    key_no      bigint generated always as identity primary key,
    device_no   bigint not null references store.device,
    kid         bytea not null check (length(kid) between 1 and 32),
    algorithm   text not null check (algorithm in ('EdDSA', 'ES256')),
    public_key  bytea not null check (length(public_key) = case algorithm when 'EdDSA' then 32 else 64 end),
    state       text not null default 'active' check (state in ('pending', 'active', 'retired', 'revoked')),
    valid_from  timestamptz not null default '-infinity',
    valid_until timestamptz not null default 'infinity',
    seq_cutoff  bigint,
    enrolled_at timestamptz not null default now(),
    unique (device_no, kid)
);
create index on store.device_key (kid);

-- The row that a batch locks: the authority on what a device may still say. Kept lean, updated in place (HOT).
create table store.device_state (
    device_no   bigint primary key references store.device,
    standing    text not null default 'trusted' check (standing in ('trusted', 'quarantined')),
    key_version integer not null default 1,          -- rises with every change of the device's keys or standing
    epoch       bigint not null check (epoch between 0 and 4294967295),
    held        integer not null default 0,          -- messages waiting in the held lane
    boots       bytea not null default '',           -- 8 bytes each, newest last
    seen        int8multirange not null default '{}',-- numbers accepted in `epoch`
    seen_floor  bigint not null default 0,           -- below it the messages know, not `seen`
    lowest      bigint not null default 0,           -- 0 before the first
    highest     bigint not null default 0,
    accepted    bigint not null default 0
) with (fillfactor = 60);

create table store.closed_ledger (
    device_no  bigint not null references store.device,
    epoch      bigint not null,
    seen       int8multirange not null,
    seen_floor bigint not null,
    lowest     bigint not null,
    highest    bigint not null,
    accepted   bigint not null,
    primary key (device_no, epoch)
);

-- The log's side ------------------------------------------------------------------------------------------------------

create table store.topic (
    topic_no smallint generated always as identity primary key,
    topic    text not null unique
);

create table store.partition_lease (
    topic_no      smallint not null references store.topic,
    partition     integer not null,
    owner_epoch   bigint not null default 0,
    next_offset   bigint not null default 0,
    owner_pid     integer,
    owner_started timestamptz,                       -- of the owner's backend: a pid alone may be somebody else's by now
    worker        text,
    taken_at      timestamptz,
    primary key (topic_no, partition)
) with (fillfactor = 50);

create table store.batch (
    topic_no     smallint not null,
    partition    integer not null,
    from_offset  bigint not null,
    to_offset    bigint not null check (to_offset > from_offset),
    accepted     integer not null,
    duplicate    integer not null,
    held         integer not null,
    refused      integer not null,
    skipped      bigint not null,                    -- offsets in between that the log holds no record for
    owner_epoch  bigint not null,
    judged_by    integer not null,
    worker       text not null,
    committed_at timestamptz not null default clock_timestamp(),
    check (accepted + duplicate + held + refused + skipped = to_offset - from_offset)
) partition by range (committed_at);
create index on store.batch (topic_no, partition, from_offset);

create table store.skipped (
    topic_no    smallint not null,
    partition   integer not null,
    from_offset bigint not null,
    to_offset   bigint not null,
    noticed_at  timestamptz not null default now(),
    primary key (topic_no, partition, from_offset)
);

create table store.judged_by (
    judged_by     integer generated always as identity primary key,
    build         text not null,
    engine        text not null,
    policy_digest bytea not null,
    policy        jsonb not null,
    unique (build, engine, policy_digest)
);

create table store.schema (
    fingerprint bigint primary key,                  -- CRC-64-AVRO, as a signed 64-bit number
    name        text not null unique,
    definition  json not null
);

-- What was said of messages -------------------------------------------------------------------------------------------

create table store.message (
    topic_no      smallint not null,
    partition     integer not null,
    kafka_offset  bigint not null,
    received_at   timestamptz not null,
    issued_at     timestamptz not null,
    expires_at    timestamptz,
    time_quality  text not null,
    device_no     bigint not null,
    vehicle_no    bigint not null,
    tenant_no     integer not null,
    key_no        bigint not null,
    cose_alg      smallint not null,
    epoch         bigint not null,
    seq           bigint not null,
    boot          bytea not null,
    software      text not null,
    configuration bytea not null,
    schema        bigint not null,
    samples       smallint not null,
    digest        bytea not null,                    -- SHA-256 of the Sig_structure: identity of the content
    traceparent   text,
    judged_by     integer not null,
    envelope      bytea not null
) partition by range (issued_at);
alter table store.message alter column envelope set storage external;  -- signed bytes do not compress
-- the device row is the authority; this is the second pair of eyes, and answers look-ups
create unique index on store.message (device_no, epoch, seq, issued_at);
create index on store.message using brin (kafka_offset, received_at);

create table store.held (
    topic_no      smallint not null,
    partition     integer not null,
    kafka_offset  bigint not null,
    reason        text not null,
    received_at   timestamptz not null,
    issued_at_s   double precision not null,         -- as claimed: it may be out of any calendar
    device_no     bigint not null,
    key_no        bigint not null,
    epoch         bigint not null,
    seq           bigint not null,
    boot          bytea not null,
    digest        bytea not null,
    traceparent   text,
    judged_by     integer not null,
    held_at       timestamptz not null default now(),
    envelope      bytea not null,
    primary key (topic_no, partition, kafka_offset)
);
alter table store.held alter column envelope set storage external;
create index on store.held (device_no, epoch, seq, digest);
create index on store.held (device_no, epoch, seq) where reason not in ('equivocation', 'counter_rollback');  -- whose the number is

create table store.exception (
    topic_no       smallint not null,
    partition      integer not null,
    kafka_offset   bigint not null,
    verdict        text not null check (verdict in ('duplicate', 'refused')),
    reason         text,
    detail         text,
    received_at    timestamptz not null,
    reached        text not null,                    -- the last degree of trust: only a 'verified' names a culprit
    device_id      text,                             -- a claim unless reached = 'verified'
    epoch          bigint,
    seq            bigint,
    digest         bytea,
    judged_by      integer not null,
    envelope_bytes integer not null,                 -- how long it was
    envelope       bytea not null                    -- how it began, at most refused_bytes_max
) partition by range (received_at);
alter table store.exception alter column envelope set storage external;
create index on store.exception using brin (kafka_offset, received_at);

-- Samples: sample i of a message is (device_no, epoch, seq, sample_no); columns carry the VSS signals of schemas/telemetry ----

create table store.vehicle_state (
    device_no bigint not null, epoch bigint not null, seq bigint not null, sample_no smallint not null, issued_at timestamptz not null,
    recorded_at               timestamptz not null,
    speed                     double precision not null,
    traveled_distance_m       bigint not null,
    current_gear              smallint not null,
    is_moving                 boolean not null,
    latitude                  double precision,
    longitude                 double precision,
    altitude                  double precision,
    heading                   double precision,
    horizontal_accuracy       double precision,
    acceleration_longitudinal double precision,
    acceleration_lateral      double precision,
    state_of_charge           double precision not null,
    air_temperature           double precision,
    humidity                  double precision,
    motor_speed               double precision,
    motor_temperature         double precision
) partition by range (issued_at);
create index on store.vehicle_state (device_no, recorded_at);

create table store.battery_charging (
    device_no bigint not null, epoch bigint not null, seq bigint not null, sample_no smallint not null, issued_at timestamptz not null,
    recorded_at                 timestamptz not null,
    state_of_charge             double precision not null,
    state_of_health             double precision,
    current_energy              double precision,
    current                     double precision not null,
    voltage                     double precision not null,
    temperature_average         double precision not null,
    temperature_min             double precision,
    temperature_max             double precision,
    is_charging                 boolean not null,
    is_charging_cable_connected boolean not null,
    charge_limit                smallint,
    charge_power                double precision,
    time_to_complete_s          bigint,
    evse_id                     text
) partition by range (issued_at);
create index on store.battery_charging (device_no, recorded_at);

create table store.diagnostics (
    device_no bigint not null, epoch bigint not null, seq bigint not null, sample_no smallint not null, issued_at timestamptz not null,
    recorded_at                 timestamptz not null,
    dtc_count                   smallint not null,
    dtc_list                    text[] not null,
    low_voltage_battery_voltage double precision not null,
    low_voltage_battery_current double precision,
    tire_pressure_1_left        integer,
    tire_pressure_1_right       integer,
    tire_pressure_2_left        integer,
    tire_pressure_2_right       integer,
    is_service_due              boolean not null,
    distance_to_service         double precision
) partition by range (issued_at);
create index on store.diagnostics (device_no, recorded_at);

create table store.security_event (
    device_no bigint not null, epoch bigint not null, seq bigint not null, sample_no smallint not null, issued_at timestamptz not null,
    recorded_at timestamptz not null,
    event       text not null,
    severity    text not null,
    source      text not null,
    event_id    integer not null,
    count       integer not null,
    detail      text
) partition by range (issued_at);
create index on store.security_event (device_no, recorded_at);

-- Days ----------------------------------------------------------------------------------------------------------------

-- What no day fits goes to the default partition, so that a commit never fails for want of one.
do $$
declare parent text;
begin
    foreach parent in array array['message', 'exception', 'batch', 'vehicle_state', 'battery_charging', 'diagnostics', 'security_event'] loop
        execute format('create table store.%I partition of store.%I default', parent || '_other', parent);
    end loop;
end $$;

-- One partition in one transaction, made apart and then attached: batches and readers go on meanwhile, and what has gone to
-- the default partition because the day was not there yet moves in. Who holds the locks that this needs is not waited for.
create function store.prepare_day(parent text, day date) returns void language plpgsql set lock_timeout = '1s' as $$
declare
    child text := parent || to_char(day, '_YYYYMMDD');
    first timestamptz := day::timestamp at time zone 'UTC';
    after timestamptz := (day + 1)::timestamp at time zone 'UTC';
    key   text;
begin
    select a.attname into strict key
    from pg_partitioned_table p join pg_attribute a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
    where p.partrelid = ('store.' || quote_ident(parent))::regclass;
    execute format('create table store.%I (like store.%I including all)', child, parent);
    execute format('with moved as (delete from store.%I where %I >= %L and %I < %L returning *) insert into store.%I select * from moved',
                   parent || '_other', key, first, key, after, child);
    execute format('alter table store.%I attach partition store.%I for values from (%L) to (%L)', parent, child, first, after);
end $$;

-- Views: stable, for people and checkers -------------------------------------------------------------------------------

create view weighbridge.message as
select t.topic, m.partition, m.kafka_offset, m.received_at, m.issued_at, m.expires_at, m.time_quality,
       d.device_id, n.tenant, v.vehicle_id, encode(k.kid, 'hex') as kid, k.algorithm, m.cose_alg,
       m.epoch, m.seq, m.boot, s.name as schema, m.samples, m.software, m.configuration, m.digest, m.traceparent,
       j.build, j.engine, j.policy_digest, m.envelope
from store.message m
join store.topic t using (topic_no)
join store.device d using (device_no)
join store.vehicle v on v.vehicle_no = m.vehicle_no
join store.tenant n on n.tenant_no = m.tenant_no
join store.device_key k using (key_no)
join store.schema s on s.fingerprint = m.schema
join store.judged_by j using (judged_by);

create view weighbridge.verdict as
select t.topic, r.partition, r.kafka_offset, r.verdict, r.reason, r.device_id, r.epoch, r.seq, r.received_at
from (
    select m.topic_no, m.partition, m.kafka_offset, 'accepted' as verdict, null as reason, d.device_id, m.epoch, m.seq, m.received_at
    from store.message m join store.device d using (device_no)
    union all
    select h.topic_no, h.partition, h.kafka_offset, 'held', h.reason, d.device_id, h.epoch, h.seq, h.received_at
    from store.held h join store.device d using (device_no)
    union all
    select e.topic_no, e.partition, e.kafka_offset, e.verdict, e.reason, e.device_id, e.epoch, e.seq, e.received_at
    from store.exception e
) r
join store.topic t using (topic_no);

create view weighbridge.batch as
select t.topic, b.partition, b.from_offset, b.to_offset, b.accepted, b.duplicate, b.held, b.refused, b.skipped, b.committed_at, b.worker
from store.batch b join store.topic t using (topic_no);

create view weighbridge.exception as
select t.topic, e.partition, e.kafka_offset, e.verdict, e.reason, e.detail, e.received_at, e.reached, e.device_id, e.epoch, e.seq,
       e.digest, e.envelope_bytes, e.envelope
from store.exception e join store.topic t using (topic_no);

create view weighbridge.held as
select t.topic, h.partition, h.kafka_offset, h.reason, h.received_at, h.held_at, d.device_id, h.epoch, h.seq, h.boot, h.digest, h.envelope
from store.held h join store.topic t using (topic_no) join store.device d using (device_no);

create view weighbridge.device as
select d.device_id, n.tenant, v.vehicle_id, s.standing, s.epoch, s.key_version, s.highest, s.accepted,
       case when s.accepted = 0 then 0 else s.highest - s.lowest + 1 - s.accepted end as missing, s.held, d.enrolled_at
from store.device d
join store.device_state s using (device_no)
join store.vehicle v using (vehicle_no)
join store.tenant n using (tenant_no);

-- Numbers that have not arrived, as ranges; where ranges were compacted away (gaps_exact is false) older gaps are not listed.
create view weighbridge.gap as
select d.device_id, s.epoch, lower(g) as from_seq, upper(g) as to_seq, s.seen_floor = 0 as gaps_exact
from store.device_state s
join store.device d using (device_no)
cross join lateral unnest(int8multirange(int8range(greatest(s.seen_floor, s.lowest), s.highest + 1)) - s.seen) g
where s.accepted > 0;

create view weighbridge.vehicle_state as select d.device_id, x.* from store.vehicle_state x join store.device d using (device_no);
create view weighbridge.battery_charging as select d.device_id, x.* from store.battery_charging x join store.device d using (device_no);
create view weighbridge.diagnostics as select d.device_id, x.* from store.diagnostics x join store.device d using (device_no);
create view weighbridge.security_event as select d.device_id, x.* from store.security_event x join store.device d using (device_no);
