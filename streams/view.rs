//! A view of an event: every field as a frame's writer reads it, borrowed from wherever the event stands.
//!
//! A frame is written from whole events or from stored rows; both are looked at through this, so that no text is
//! copied on its way from an outbox into a column.

use std::sync::Arc;

use crate::event::{
    Body, ClickDetail, ConversionDetail, Device, EdgeReason, Event, Flags, Kind, Placement,
};
use crate::frame_error::FrameError;
use crate::id::Id;
use crate::money::Currency;
use crate::uuid_text::uuid_bytes;

/// An id as columns and rows keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdView<'a> {
    /// The bytes of a UUID whose canonical lower-case text the id is.
    Uuid([u8; 16]),
    /// Any other id.
    Text(&'a str),
}

impl<'a> IdView<'a> {
    /// The view of that id.
    pub(crate) fn of(id: &'a Id) -> Self {
        match uuid_bytes(id.as_str()) {
            Some(bytes) => IdView::Uuid(bytes),
            None => IdView::Text(id.as_str()),
        }
    }
}

/// An advertiser with the currency and clock that go with it.
pub(crate) type Account<'a> = (Option<&'a str>, Option<Currency>, i32);

/// An event; what a kind does not have is none, empty or zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventView<'a> {
    pub(crate) kind: Kind,
    pub(crate) id: IdView<'a>,
    pub(crate) event_time_ms: i64,
    pub(crate) arrival_ms: i64,
    pub(crate) account: Account<'a>,
    pub(crate) catalogue_revision: u64,
    pub(crate) content_hash: u64,
    pub(crate) flags: Flags,
    pub(crate) address_hash: Option<u64>,
    pub(crate) user_id: Option<IdView<'a>>,
    pub(crate) user_agent: Option<&'a str>,
    pub(crate) referrer: Option<&'a str>,
    pub(crate) ad_id: &'a str,
    pub(crate) campaign_id: &'a str,
    pub(crate) creative: &'a str,
    pub(crate) region: &'a str,
    /// Number of the device class.
    pub(crate) device: u8,
    /// Number of the border's verdict, 0 for none.
    pub(crate) verdict: u8,
    /// Cost of an impression or click, value of a conversion.
    pub(crate) amount_micros: i64,
    /// The impression that a click names, the click that a conversion names.
    pub(crate) cause_id: Option<IdView<'a>>,
    pub(crate) order_id: Option<IdView<'a>>,
    pub(crate) landing_url: Option<&'a str>,
}

impl Event {
    /// The view of this event.
    pub(crate) fn view(&self) -> EventView<'_> {
        let common = EventView {
            kind: self.kind(),
            id: IdView::of(&self.id),
            event_time_ms: self.event_time_ms,
            arrival_ms: self.arrival_ms,
            account: (
                self.advertiser_id.as_ref().map(Id::as_str),
                self.currency,
                self.utc_offset_s,
            ),
            catalogue_revision: self.catalogue_revision,
            content_hash: self.content_hash,
            flags: self.flags,
            address_hash: self.address_hash,
            user_id: view_of(&self.user_id),
            user_agent: self.user_agent.as_deref(),
            referrer: self.referrer.as_deref(),
            ad_id: "",
            campaign_id: "",
            creative: "",
            region: "",
            device: 0,
            verdict: 0,
            amount_micros: 0,
            cause_id: None,
            order_id: None,
            landing_url: None,
        };
        match &self.body {
            Body::Impression(placement) => common.placed(placement),
            Body::Click(placement, detail) => EventView {
                cause_id: view_of(&detail.impression_id),
                landing_url: detail.landing_url.as_ref().map(Arc::as_ref),
                ..common.placed(placement)
            },
            Body::Conversion(detail) => EventView {
                amount_micros: detail.value_micros,
                cause_id: view_of(&detail.click_id),
                order_id: view_of(&detail.order_id),
                ..common
            },
        }
    }
}

impl IdView<'_> {
    fn to_id(self) -> Result<Id, FrameError> {
        match self {
            IdView::Uuid(bytes) => Ok(Id::from_uuid(&bytes)),
            IdView::Text(text) => Ok(Id::new(text)?),
        }
    }
}

impl EventView<'_> {
    /// The event.
    ///
    /// # Errors
    /// When a text is not the id, or a number not the class, that it should be.
    pub(crate) fn to_event(self) -> Result<Event, FrameError> {
        let id = |id: Option<IdView<'_>>| id.map(IdView::to_id).transpose();
        let text = |text: Option<&str>| text.map(Arc::from);
        let body = match self.kind {
            Kind::Impression => Body::Impression(self.placement()?),
            Kind::Click => {
                let detail = ClickDetail {
                    impression_id: id(self.cause_id)?,
                    landing_url: text(self.landing_url),
                };
                Body::Click(self.placement()?, detail)
            }
            Kind::Conversion => Body::Conversion(ConversionDetail {
                click_id: id(self.cause_id)?,
                order_id: id(self.order_id)?,
                value_micros: self.amount_micros,
            }),
        };
        let (advertiser_id, currency, utc_offset_s) = self.account;
        Ok(Event {
            id: self.id.to_id()?,
            event_time_ms: self.event_time_ms,
            arrival_ms: self.arrival_ms,
            advertiser_id: advertiser_id.map(Id::new).transpose()?,
            currency,
            utc_offset_s,
            catalogue_revision: self.catalogue_revision,
            content_hash: self.content_hash,
            flags: self.flags,
            address_hash: self.address_hash,
            user_id: id(self.user_id)?,
            user_agent: text(self.user_agent),
            referrer: text(self.referrer),
            body,
        })
    }

    fn placement(&self) -> Result<Placement, FrameError> {
        let verdict = match self.verdict {
            0 => None,
            n => Some(EdgeReason::from_number(n).ok_or(FrameError::UnknownNumber)?),
        };
        Ok(Placement {
            ad_id: Id::new(self.ad_id)?,
            campaign_id: Id::new(self.campaign_id)?,
            creative: Arc::from(self.creative),
            region: Arc::from(self.region),
            device: Device::from_number(self.device).ok_or(FrameError::UnknownNumber)?,
            cost_micros: self.amount_micros,
            verdict,
        })
    }
}

impl<'a> EventView<'a> {
    fn placed(self, placement: &'a Placement) -> Self {
        Self {
            ad_id: placement.ad_id.as_str(),
            campaign_id: placement.campaign_id.as_str(),
            creative: &placement.creative,
            region: &placement.region,
            device: placement.device as u8,
            verdict: placement.verdict.map_or(0, |v| v as u8),
            amount_micros: placement.cost_micros,
            ..self
        }
    }
}

fn view_of(id: &Option<Id>) -> Option<IdView<'_>> {
    id.as_ref().map(IdView::of)
}
