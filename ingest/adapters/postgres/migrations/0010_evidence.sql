-- Who is accused is locked while it is written: that the device exists need not be looked up for each piece of evidence.
alter table store.accusation drop constraint accusation_device_no_fkey;

-- A boot since the newest accepted one that came with used numbers only: if that one goes on, they are two units.
alter table store.device_state add column rolled bytea not null default '';
