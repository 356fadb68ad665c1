-- Has anything been changed of who may say what? One number rises with every such change, so that what a process has read
-- of keys may be used for as long as it stands. Acts of people come one at a time, so nobody waits for this row.

create table store.registry (
    only_one boolean primary key default true check (only_one),
    version  bigint not null
);
insert into store.registry (version) values (0);

create function store.registry_moved() returns trigger language plpgsql as $$
begin
    update store.registry set version = version + 1;
    return null;
end $$;

create trigger registry_moved after delete or truncate or update on store.vehicle
    for each statement execute function store.registry_moved();
create trigger registry_moved after delete or truncate or update of device_id, vehicle_no on store.device
    for each statement execute function store.registry_moved();
create trigger registry_moved after delete or truncate or update of key_version on store.device_state
    for each statement execute function store.registry_moved();
create trigger registry_moved after insert or delete or truncate or update of
    device_no, kid, algorithm, public_key, state, valid_from, valid_until, seq_cutoff, cutoff_epoch, epoch_from,
    epoch_until on store.device_key
    for each statement execute function store.registry_moved();
