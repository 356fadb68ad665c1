-- Who is speaking: the life of keys, devices and ownership; and a chain of everything that people decided about them.

alter table store.device_key
    add column epoch_from        bigint not null default 0 check (epoch_from between 0 and 4294967295),
    add column epoch_until       bigint,             -- the first that it does not speak for; null: open
    add column revoked_at        timestamptz,
    add column revoked_why       text,
    add column compromised_since timestamptz,
    add column stored_before     bigint,             -- messages under it when it was revoked, counted under the lock
    add check (state <> 'revoked' or (revoked_at is not null and revoked_why is not null)),
    add check (state <> 'retired' or seq_cutoff is not null);
create index on store.device_key (public_key);       -- a key belongs to one device, and does not come back once revoked

alter table store.device
    add column replaced_by       bigint references store.device,
    add column decommissioned_at timestamptz;
create index on store.device (vehicle_no);

-- Who owned the vehicle before this instant; vehicle.tenant_no owns it after the last one.
create table store.vehicle_transfer (
    vehicle_no bigint not null references store.vehicle,
    at         timestamptz not null,
    tenant_no  integer not null references store.tenant,
    primary key (vehicle_no, at)
);
alter table store.vehicle add column transferred boolean not null default false;  -- spares a look at the table above

-- Certification authorities that a tenant answers for.
create table store.tenant_ca (
    tenant_no   integer not null references store.tenant,
    fingerprint bytea not null check (length(fingerprint) = 32),   -- SHA-256 of the certificate
    certificate bytea not null,                      -- DER
    trusted_at  timestamptz not null default now(),
    primary key (tenant_no, fingerprint)
);

-- Append only. hash = SHA-256 over the hash before it and this row's content (adapters/postgres/audit.py); number 0 begins it.
create table store.audit (
    audit_no bigint primary key,
    acted_at timestamptz not null,
    actor    text not null,
    act      text not null,
    subject  text not null,
    reason   text not null,
    before   jsonb not null,
    after    jsonb not null,
    hash     bytea not null check (length(hash) = 32)
);

create or replace view weighbridge.device as
select d.device_id, n.tenant, v.vehicle_id, s.standing, s.epoch, s.key_version, s.highest, s.accepted,
       case when s.accepted = 0 then 0 else s.highest - s.lowest + 1 - s.accepted end as missing, s.held, d.enrolled_at,
       r.device_id as replaced_by, d.decommissioned_at
from store.device d
join store.device_state s using (device_no)
join store.vehicle v on v.vehicle_no = d.vehicle_no
join store.tenant n using (tenant_no)
left join store.device r on r.device_no = d.replaced_by;

create view weighbridge.audit as
select audit_no, acted_at, actor, act, subject, reason, before, after, encode(hash, 'hex') as hash from store.audit;

create view weighbridge.key as
select d.device_id, encode(k.kid, 'hex') as kid, k.algorithm, k.state, k.epoch_from, k.epoch_until, k.valid_from, k.valid_until,
       k.seq_cutoff, k.enrolled_at, k.revoked_at, k.revoked_why, k.compromised_since
from store.device_key k join store.device d using (device_no);

-- No message is stored under a key after its revocation: stored_now is never above stored_before.
create view weighbridge.revocation as
select d.device_id, encode(k.kid, 'hex') as kid, k.revoked_at, k.revoked_why, k.compromised_since, k.stored_before,
       (select count(*) from store.message m where m.device_no = k.device_no and m.key_no = k.key_no) as stored_now
from store.device_key k join store.device d using (device_no)
where k.state = 'revoked';

-- Stored under a key that was already in other hands, as far as anybody knows.
create view weighbridge.tainted as
select d.device_id, encode(k.kid, 'hex') as kid, k.compromised_since, k.revoked_at, t.topic, m.partition, m.kafka_offset, t.incarnation,
       m.epoch, m.seq, m.received_at, m.issued_at
from store.message m
join store.device_key k using (key_no)
join store.device d on d.device_no = m.device_no
join store.topic t on t.topic_no = m.topic_no
where k.state = 'revoked' and k.compromised_since is not null and m.received_at >= k.compromised_since;
