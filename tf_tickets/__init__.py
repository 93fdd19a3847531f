from tf_tickets import layers
from tf_tickets import schedules
from tf_tickets.wrapping import strip, wrap
from tf_tickets.search.imp import IMP
from tf_tickets.search.gradual import GradualPruning
from tf_tickets.search.finding import find_ticket
from tf_tickets.tickets import Ticket
