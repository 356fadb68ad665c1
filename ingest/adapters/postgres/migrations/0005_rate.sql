-- How much may come at once: buckets that are charged for what is accepted. Levels are in thousandths of a message or byte.

alter table store.device_state
    add column rate_milli bigint not null default 0,
    add column rate_at    timestamptz not null default 'epoch';  -- as of then, by the broker's clock: a new one is full

-- What a tenant may still send into a partition. Only the partition's owner touches its rows.
create table store.share (
    topic_no   smallint not null,
    partition  integer not null,
    tenant_no  integer not null,                     -- 0: all together
    rate_milli bigint not null,
    rate_at    timestamptz not null,
    primary key (topic_no, partition, tenant_no)
) with (fillfactor = 50);

alter table store.partition_lease rename column shown_bytes to shown_milli;  -- a bucket like the others
update store.partition_lease set shown_milli = shown_milli * 1000;

create view weighbridge.share as
select t.topic, t.incarnation, s.partition, n.tenant, s.rate_milli / 1000.0 as messages_left, s.rate_at
from store.share s join store.topic t using (topic_no) left join store.tenant n using (tenant_no);
